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
        let (mut server, mut told) = (ServerLooks::default(), false);
        loop {
            tokio::time::sleep(LOOK).await;
            let free = free(&self.dir);
            match server.look(self.is_well(&http).await, free) {
                Trouble::None => {}
                Trouble::Over => {
                    eprintln!(
                        "nats-server cannot write although {} MiB are free in {dir}: restarting it",
                        free / MIB
                    );
                    return;
                }
                Trouble::Full => {
                    if !std::mem::replace(&mut told, true) {
                        eprintln!(
                            "the disk of {dir} is full: NOTHING CAN BE STORED until {} MiB are free; then nats-server is restarted",
                            ROOM / MIB
                        );
                    }
                }
            }
        }
    }

    /// What the server says of itself: 200 (it stores) or 503 (it does not). None: it does not answer and may be busy, or it
    /// answers 500 because it is still reading its streams.
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

/// What the looks at one run of the server have shown.
#[derive(Default)]
struct ServerLooks {
    /// It was well, or its disk full. Without either, its trouble has another cause, such as a stream that cannot be read
    /// back, and a restart would not help.
    restart_helps: bool,
    unwell: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Full,
    /// There is room again, and the server still stores nothing.
    Over,
}

impl ServerLooks {
    fn look(&mut self, is_well: Option<bool>, free: u64) -> Trouble {
        match is_well {
            Some(true) => (self.restart_helps, self.unwell) = (true, 0),
            Some(false) => self.unwell += 1,
            None => {}
        }
        self.restart_helps |= self.unwell > 0 && free < ROOM;
        match self.unwell < UNWELL_LOOKS || !self.restart_helps {
            true => Trouble::None,
            false if free < ROOM => Trouble::Full,
            false => Trouble::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Trouble::{Full, None as Fine, Over};
    use super::*;

    /// The last of a run's looks.
    fn after(looks: &[(Option<bool>, u64)]) -> Trouble {
        let mut server = ServerLooks::default();
        looks
            .iter()
            .fold(Fine, |_, look| server.look(look.0, look.1))
    }

    #[test]
    fn a_server_is_restarted_after_its_disk_was_full_and_for_no_other_trouble() {
        let (well, unwell, busy) = (Some(true), Some(false), None);
        assert_eq!(after(&[(well, ROOM), (unwell, ROOM)]), Fine);
        assert_eq!(after(&[(well, ROOM), (unwell, ROOM), (unwell, ROOM)]), Over);
        assert_eq!(after(&[(well, 0), (unwell, 0), (unwell, 0)]), Full);
        // Full before the first look.
        assert_eq!(after(&[(unwell, 0), (unwell, 0), (unwell, ROOM)]), Over);
        // A stream that cannot be read back; a server that still starts.
        assert_eq!(
            after(&[(unwell, ROOM), (unwell, ROOM), (unwell, ROOM)]),
            Fine
        );
        assert_eq!(after(&[(busy, 0), (busy, 0), (busy, ROOM)]), Fine);
    }
}
