//! The disk under the NATS server. Once a write has failed, the server stores nothing more in that stream, or in any, also
//! when the disk has room again: it has to be started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use reqwest::StatusCode;

use super::http;

/// The server is asked this often. It logs a line for each answer that it is not well.
const LOOK: Duration = Duration::from_secs(1);
/// As much has to be free before the server is started again: two of the files that it writes streams in, 8 MiB each.
const ROOM: u64 = 16 << 20;
const MIB: u64 = 1 << 20;
/// A stream that is just being made looks unwell for a moment.
const UNWELL_LOOKS: u32 = 2;

#[derive(Clone, Debug)]
pub struct Disk {
    /// Where the server keeps its streams.
    pub dir: PathBuf,
    pub health_url: String,
}

impl Disk {
    /// Returns when the server that runs now stores nothing and the disk has room again.
    pub async fn was_full(&self) {
        let Ok(http) = http::client() else {
            return std::future::pending().await;
        };
        let dir = self.dir.display();
        let (mut unwell, mut told) = (0, false);
        loop {
            tokio::time::sleep(LOOK).await;
            match self.is_well(&http).await {
                Some(true) => unwell = 0,
                Some(false) => unwell += 1,
                None => {}
            }
            if unwell < UNWELL_LOOKS {
                continue;
            }
            let free = free(&self.dir);
            if free >= ROOM {
                eprintln!(
                    "nats-server cannot write although {} MiB are free in {dir}: restarting it",
                    free / MIB
                );
                return;
            }
            if !std::mem::replace(&mut told, true) {
                eprintln!(
                    "the disk of {dir} is full: NOTHING CAN BE STORED until {} MiB are free; then nats-server is restarted",
                    ROOM / MIB
                );
            }
        }
    }

    /// What the server says of itself: 200 (it stores) or 503 (it does not). None: it does not answer and may be busy, or it
    /// answers 500 because it is still reading its streams. So a server that has been unwell since it started counts, too:
    /// its first write may already have found the disk full.
    async fn is_well(&self, http: &reqwest::Client) -> Option<bool> {
        let answer = http.get(&self.health_url).send().await.ok()?;
        match answer.status() {
            StatusCode::OK => Some(true),
            StatusCode::SERVICE_UNAVAILABLE => Some(false),
            _ => None,
        }
    }
}

/// Bytes; of a disk that cannot be looked at none.
fn free(dir: &Path) -> u64 {
    statvfs(dir).map_or(0, |found| found.blocks_available() * found.fragment_size())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_unwell_from_its_start_is_restarted_and_one_that_still_starts_is_not()
    {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let disk = Disk {
            dir: std::env::temp_dir(),
            health_url: format!("http://{}/healthz", server.local_addr().unwrap()),
        };
        let answers = async {
            for status in ["500 Starting", "503 Unwell", "503 Unwell"] {
                let (mut asked, _) = server.accept().await.unwrap();
                assert!(asked.read(&mut [0; 1024]).await.unwrap() > 0);
                let answer =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                asked.write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = disk.was_full() => {}
            () = answers => {}
        }
    }
}
