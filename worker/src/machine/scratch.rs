//! The scratch directory: nothing in it is needed after a crash, what counts lies in S3.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct ScratchError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Names the path that could not be written.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> ScratchError {
    let path = path.to_owned();
    |source| ScratchError { path, source }
}

/// Deletes what an earlier life left in the directory.
pub async fn empty(dir: &Path) -> io::Result<()> {
    let _ = tokio::fs::remove_dir_all(dir).await;
    tokio::fs::create_dir_all(dir).await
}

/// Deletes a directory that a task does not need any more.
pub async fn remove(dir: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(dir).await {
        tracing::debug!(%error, dir = %dir.display(), "deleting the scratch directory failed");
    }
}
