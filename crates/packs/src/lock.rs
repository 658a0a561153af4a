//! One puller a directory.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::PackError;

const LOCK: &str = ".lock";
/// How often a puller that waits looks again; a pull takes minutes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Held until the last clone is gone: threads that still write keep one.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Waits for whoever pulls into `packs`. The kernel takes the lock from a process that dies.
    pub async fn take(packs: &Path) -> Result<Self, PackError> {
        let path = packs.join(LOCK);
        let file = std::fs::create_dir_all(packs).and_then(|()| File::create(&path));
        let file = file.map_err(PackError::unwritable(&path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    let _file = Arc::new(file);
                    return Ok(Self { _file });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(PackError::Unwritable { path, source });
                }
                Err(TryLockError::WouldBlock) if !told => {
                    tracing::warn!(packs = %packs.display(), "another pull uses this directory; waiting");
                    told = true;
                }
                Err(TryLockError::WouldBlock) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
