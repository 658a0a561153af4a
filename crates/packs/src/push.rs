//! A pack from this disk into the bucket.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use spotreel_s3::{GetBytesError, HeadError, Put, PutBytesError, PutFileError};
use tokio::task::{JoinError, spawn_blocking};

use crate::{INDEX, Pack, PackError, PackFile, Remote, verify};

const BLOB_TYPE: &str = "application/octet-stream";
const POINTER_TYPE: &str = "application/json";

/// What a push did.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    pub pack: Arc<Pack>,
    /// Files that the bucket did not have.
    pub sent: usize,
    pub sent_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(
        "the object {key} is not the file {path}, whose hash it is named by: delete it and push again"
    )]
    Foreign { key: String, path: String },
    #[error("{path} could not be uploaded")]
    Put { path: String, source: PutFileError },
    #[error("the bucket cannot be checked for {path}")]
    Head { path: String, source: HeadError },
    #[error("all files were uploaded, but not pack.json: push again")]
    Pointer { source: PutBytesError },
    #[error("the pack is in the bucket, but {key} cannot be read: push again")]
    Lock { key: String, source: GetBytesError },
    #[error(
        "the pack is in the bucket, but a prune ({holder}) may have removed files of it: push again when it has ended; \
         if it was killed, delete {key} first"
    )]
    Pruning { key: String, holder: String },
    #[error("an internal task of the push panicked")]
    Task(#[from] JoinError),
}

impl Remote {
    /// Sends what the bucket lacks, and then makes the pack the model's current one. `done` hears how many bytes are in the
    /// bucket, sent or found there. A pack that was not verified is verified first.
    pub async fn push(&self, dir: &Path, done: impl Fn(u64)) -> Result<Pushed, PushError> {
        let dir = dir.to_owned();
        let pack = spawn_blocking(move || verified(&dir)).await??;
        let first = self.send_all(&pack, done).await?;
        let path = pack.dir.join(INDEX);
        let text = std::fs::read(&path).map_err(PackError::unreadable(path))?;
        let key = self.pointer(pack.index.model);
        let put =
            self.store
                .put_bytes(&key, Bytes::from(text), POINTER_TYPE, false, HashMap::new());
        put.await.map_err(|source| PushError::Pointer { source })?;
        // What was there a moment ago a prune may have removed meanwhile: `prune/lock.rs` says why this is enough.
        self.no_prune().await?;
        let again = self.send_all(&pack, |_| ()).await?;
        Ok(Pushed {
            pack: Arc::new(pack),
            sent: first.0 + again.0,
            sent_bytes: first.1 + again.1,
        })
    }

    /// How many files the bucket lacked, and their bytes.
    async fn send_all(&self, pack: &Pack, done: impl Fn(u64)) -> Result<(usize, u64), PushError> {
        let (mut sent, mut sent_bytes) = (0, 0);
        for file in pack.index.load_order() {
            if self.send(pack, file).await? == Put::Created {
                sent += 1;
                sent_bytes += file.bytes;
            }
            done(file.bytes);
        }
        Ok((sent, sent_bytes))
    }

    async fn no_prune(&self) -> Result<(), PushError> {
        let key = self.lock_key();
        match self.wait_for_prune().await {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => Err(PushError::Pruning { key, holder }),
            Err(source) => Err(PushError::Lock { key, source }),
        }
    }

    async fn send(&self, pack: &Pack, file: &PackFile) -> Result<Put, PushError> {
        let key = self.blob(&file.sha256);
        let path = file.path.clone();
        // An upload reads the whole file before it is told that the key is taken.
        if self.is_there(&key, file).await? {
            return Ok(Put::Exists);
        }
        let source = pack.path(file);
        let put =
            self.store
                .put_file_if_absent(&key, &source, &file.sha256, BLOB_TYPE, HashMap::new());
        match put.await {
            Ok(Put::Created) => Ok(Put::Created),
            // Another push of it, or our own answer that was lost.
            Ok(Put::Exists) => self.is_there(&key, file).await.map(|_| Put::Exists),
            Err(source) => Err(PushError::Put { path, source }),
        }
    }

    async fn is_there(&self, key: &str, file: &PackFile) -> Result<bool, PushError> {
        let path = || file.path.clone();
        let head = self.store.head(key).await;
        let head = head.map_err(|source| PushError::Head {
            path: path(),
            source,
        })?;
        match head {
            None => Ok(false),
            Some(found)
                if found.bytes == file.bytes && found.sha256.as_ref() == Some(&file.sha256) =>
            {
                Ok(true)
            }
            Some(_) => Err(PushError::Foreign {
                key: key.to_owned(),
                path: path(),
            }),
        }
    }
}

fn verified(dir: &Path) -> Result<Pack, PackError> {
    let pack = Pack::open(dir)?;
    match pack.is_verified() {
        true => Ok(pack),
        false => verify(dir, |_| ()),
    }
}
