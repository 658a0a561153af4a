//! The disk under the NATS server. The server does not say how full it is, and stores nothing once it is full; so the disk
//! is looked at, where this program sees the directory.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::config::DiskConfig;
use crate::metrics;

const GB: u64 = 1_000_000_000;
/// Of a disk so small that `disk.least_free_gb` is a large part of it, a tenth is asked for.
const LEAST_FREE_PART: u64 = 10;

/// Says once when there is little space, and once when there is enough again.
pub(crate) struct DiskWatch {
    config: DiskConfig,
    little: bool,
    failing: bool,
}

struct DiskSpace {
    free: u64,
    total: u64,
}

impl DiskWatch {
    pub fn new(config: DiskConfig) -> Self {
        Self {
            config,
            little: false,
            failing: false,
        }
    }

    pub fn look(&mut self) {
        let Some(dir) = self.config.dir.as_deref() else {
            return;
        };
        let space = match DiskSpace::of(dir) {
            Ok(space) => space,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, dir = %dir.display(), "disk.dir cannot be checked: the disk under NATS is not monitored");
                }
                return;
            }
        };
        self.failing = false;
        metrics::disk(space.free, space.total);
        let little = space.is_little(self.config.least_free_gb);
        let free_mb = space.free / 1_000_000;
        match (little, self.little) {
            (true, false) => tracing::error!(
                free_mb,
                dir = %dir.display(),
                "disk under NATS is nearly full: free some space, or writes will fail"
            ),
            (false, true) => tracing::info!(free_mb, "disk under NATS has enough space again"),
            _ => {}
        }
        self.little = little;
    }
}

impl DiskSpace {
    fn of(dir: &Path) -> nix::Result<Self> {
        let found = statvfs(dir)?;
        Ok(Self {
            free: found.blocks_available() * found.fragment_size(),
            total: found.blocks() * found.fragment_size(),
        })
    }

    fn is_little(&self, least_free_gb: u64) -> bool {
        self.free < (least_free_gb * GB).min(self.total / LEAST_FREE_PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_less_than_was_asked_for_and_of_a_small_disk_less_than_a_tenth() {
        let little = |free, total| DiskSpace { free, total }.is_little(2);
        assert!(!little(3 * GB, 500 * GB));
        assert!(little(GB, 500 * GB));
        assert!(!little(GB, 8 * GB));
        assert!(little(GB / 2, 8 * GB));
        assert!(little(0, 8 * GB));
    }

    #[test]
    fn a_directory_is_on_a_disk_with_a_size() {
        let dir = tempfile::tempdir().unwrap();
        let space = DiskSpace::of(dir.path()).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert!(DiskSpace::of(&dir.path().join("nowhere")).is_err());
    }
}
