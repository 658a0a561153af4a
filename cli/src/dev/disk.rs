//! The disk under the NATS server. Once a write has failed, the server stores nothing more in that stream, or in any, also
//! when the disk has room again: it has to be started again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

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
        let (mut was_well, mut unwell, mut told) = (false, 0, false);
        loop {
            tokio::time::sleep(LOOK).await;
            match self.is_well(&http).await {
                Some(true) => (was_well, unwell) = (true, 0),
                // One that was never well reads its streams back.
                Some(false) if was_well => unwell += 1,
                Some(false) | None => {}
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

    /// What the server says of itself: that it stores, or that it does not. None: it does not answer, and may be busy.
    async fn is_well(&self, http: &reqwest::Client) -> Option<bool> {
        let answer = http.get(&self.health_url).send().await.ok()?;
        Some(answer.status().is_success())
    }
}

/// Bytes; of a disk that cannot be looked at none.
fn free(dir: &Path) -> u64 {
    statvfs(dir).map_or(0, |found| found.blocks_available() * found.fragment_size())
}
