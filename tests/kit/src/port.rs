//! Ports that nobody else takes, also while the server that they are for is down.

use std::fs::{File, TryLockError};
use std::net::TcpListener;

use spotreel_bootstrap::ambient;

/// Below the ports that the kernel gives to outgoing connections, and to whoever asks for any.
const PORTS: std::ops::Range<u64> = 12_000..32_000;
/// So many misses in a row mean that something is wrong: even with half of the ports taken, it is one test in 10^30.
const TRIES: usize = 100;

/// A port for a server on the loopback. It is this process's until this process ends: nobody else who asks here gets
/// it, and the kernel does not use it, so a server that was killed finds it free when it comes back.
pub fn free_port() -> u16 {
    let range = PORTS.end - PORTS.start;
    (0..TRIES)
        .map(|_| PORTS.start + ambient::random_u64() % range)
        .map(|drawn| u16::try_from(drawn).expect("the range ends below 65,536"))
        .find(|port| claim(*port) && is_free(*port))
        .expect("some port is free")
}

/// A lock on the port's file, which the kernel lets go of when this process ends, however it ends.
fn claim(port: u16) -> bool {
    let dir = std::env::temp_dir().join("spotreel-test-ports");
    let opened = std::fs::create_dir_all(&dir).and_then(|()| {
        File::options()
            .create(true)
            .append(true)
            .open(dir.join(port.to_string()))
    });
    let file = opened.unwrap_or_else(|error| {
        panic!(
            "{} (under TMPDIR) can't be written to: {error}",
            dir.display()
        )
    });
    match file.try_lock() {
        Ok(()) => {
            // Never closed, so that it stays locked.
            std::mem::forget(file);
            true
        }
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => panic!("{} cannot lock: {error}", dir.display()),
    }
}

/// Somebody may hold it who does not ask here.
fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_claimed_once() {
        let port = free_port();
        assert!(PORTS.contains(&u64::from(port)));
        assert!(is_free(port), "it is held without being bound");
        assert!(!claim(port));
    }
}
