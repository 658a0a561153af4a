//! Asking a running program whether it is ready, from beside it: what a container's health check runs. The image then
//! needs no shell and no HTTP client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// `/readyz` only reads what is known; who takes longer hangs. Shorter than the patience of any usual supervisor.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is a line for each check, some hundred bytes; whoever sends more is not ours.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// Why a program is not ready, as far as we can tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("http.listen is {0}; with port 0 the port changes at each start: set a fixed port")]
    NoPort(SocketAddr),
    #[error("nothing answers at {address}")]
    Silent {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("not ready: {0}")]
    NotReady(String),
}

/// Asks `/readyz` of the program that listens as this configuration says.
pub(crate) fn ready(listen: SocketAddr) -> Result<(), ProbeError> {
    if listen.port() == 0 {
        return Err(ProbeError::NoPort(listen));
    }
    let address = reachable(listen);
    let answer = ask(address).map_err(|source| ProbeError::Silent { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(ProbeError::NotReady(match body.trim() {
        "" => head.lines().next().unwrap_or("an empty answer").to_owned(),
        body => body.to_owned(),
    }))
}

/// Who listens everywhere is asked on the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_the_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(at("[::]:8081"), "[::1]:8081");
        assert_eq!(at("10.0.0.7:8081"), "10.0.0.7:8081");
    }
}
