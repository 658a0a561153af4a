//! What lies in the bucket and belongs to no pack: blobs of old versions, and uploads that were never ended.

mod lock;

use std::collections::HashSet;
use std::time::SystemTime;

use serde::Deserialize;
use spotreel_s3::{
    DeleteError, DeleteManyError, GetBytesError, ListError, ListedObject, PutBytesError,
    RequestError, Unfinished,
};
use tokio_util::sync::CancellationToken;

use crate::index::{MAX_INDEX_BYTES, bad_index, check_format, is_sha256};
use crate::{INDEX, PackError, PackFile, Remote};

/// What a prune finds, and removes.
#[derive(Clone, Debug, PartialEq)]
pub struct Unused {
    /// The packs in the bucket; what they name stays.
    pub packs: usize,
    /// Named by no pack, and old enough to go.
    pub blobs: Vec<ListedObject>,
    /// Of blobs, and as old.
    pub uploads: Vec<Unfinished>,
    /// Named by no pack, and still needed perhaps.
    pub waiting: Vec<ListedObject>,
}

#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(
        "{key} is held by a prune ({holder}): wait for its end, or delete the object if it was killed"
    )]
    Locked { key: String, holder: String },
    #[error("the lock {key} between pushes and prunes cannot be written")]
    Lock { key: String, source: PutBytesError },
    #[error("the lock {key} between pushes and prunes cannot be read")]
    Holder { key: String, source: GetBytesError },
    #[error(
        "the prune has ended, but its lock {key} could not be deleted: delete it, or pushes and prunes are refused"
    )]
    Unlock { key: String, source: DeleteError },
    #[error("nothing was removed: the bucket cannot be listed")]
    List(#[from] ListError),
    #[error("nothing was removed: {key} cannot be read, so its blobs are not known")]
    Get { key: String, source: GetBytesError },
    #[error("nothing was removed: an index cannot be read, so its blobs are not known")]
    Index(#[from] PackError),
    #[error(
        "nothing was removed: the bucket {bucket} has {blobs} blobs and no pack under {prefix:?}: if none is to be \
         kept, delete {prefix:?} by other means"
    )]
    NoPack {
        bucket: String,
        prefix: String,
        blobs: usize,
    },
    #[error("nothing was removed: the prune was stopped")]
    Stopped,
    #[error("not every blob was removed: prune again")]
    Delete(#[from] DeleteManyError),
    #[error("the blobs were removed, but not the unfinished upload of {key}: prune again")]
    Abort { key: String, source: RequestError },
}

/// As much of an index as says what it names. The model may be one that this build does not know.
#[derive(Deserialize)]
struct Names {
    format: String,
    files: Vec<PackFile>,
}

impl Remote {
    /// What no pack names. Only what was there at `before` already is old enough to go: a push writes blobs before the
    /// index that names them.
    pub async fn unused(&self, before: SystemTime) -> Result<Unused, PruneError> {
        let is_old = |at: Option<SystemTime>| at.is_some_and(|at| at <= before);
        let listed = self.store.list(self.prefix()).await?;
        let mut named = HashSet::new();
        let (mut packs, mut settled) = (0, true);
        for index in listed.iter().filter(|object| is_index(&object.key)) {
            named.extend(self.named_by(&index.key).await?);
            packs += 1;
            settled &= is_old(index.last_modified);
        }
        let blobs_at = self.blob("");
        let is_unnamed = |object: &ListedObject| {
            let sha256 = object.key.strip_prefix(&blobs_at);
            sha256.is_some_and(|sha256| is_sha256(sha256) && !named.contains(sha256))
        };
        let unnamed: Vec<_> = listed.into_iter().filter(is_unnamed).collect();
        if packs == 0 && !unnamed.is_empty() {
            return Err(PruneError::NoPack {
                bucket: self.store.bucket().to_owned(),
                prefix: self.prefix().to_owned(),
                blobs: unnamed.len(),
            });
        }
        // The index that a new one has replaced may have named any of them, and whoever read it may still be pulling.
        let goes = |blob: &ListedObject| settled && is_old(blob.last_modified);
        let (blobs, waiting) = unnamed.into_iter().partition(goes);
        let mut uploads = self.store.list_unfinished(&blobs_at).await?;
        uploads.retain(|upload| is_old(upload.begun));
        Ok(Unused {
            packs,
            blobs,
            uploads,
            waiting,
        })
    }

    async fn named_by(&self, key: &str) -> Result<impl Iterator<Item = String>, PruneError> {
        let got = self.store.get_bytes(key, MAX_INDEX_BYTES).await;
        let text = got.map_err(|source| PruneError::Get {
            key: key.to_owned(),
            source,
        })?;
        let bad = bad_index(key);
        let names: Names = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        check_format(&names.format).map_err(&bad)?;
        for file in &names.files {
            file.check_hash().map_err(&bad)?;
        }
        Ok(names.files.into_iter().map(|file| file.sha256))
    }

    /// Removes what [`Remote::unused`] finds, and says what that was. `holder` says whose prune it is and is unique. After
    /// `stop` nothing is removed; what was begun to be removed is.
    pub async fn prune(
        &self,
        before: SystemTime,
        holder: &str,
        stop: &CancellationToken,
    ) -> Result<Unused, PruneError> {
        self.lock(holder).await?;
        let removed = self.remove(before, stop).await;
        let unlocked = self.unlock().await;
        let removed = removed?;
        unlocked.map(|()| removed)
    }

    async fn remove(
        &self,
        before: SystemTime,
        stop: &CancellationToken,
    ) -> Result<Unused, PruneError> {
        let unused = stop.run_until_cancelled(self.unused(before)).await;
        let unused = unused.ok_or(PruneError::Stopped)??;
        // Waited for in any case: a delete whose answer nobody waits for might happen after the lock is gone.
        self.store.delete_many(&unused.blobs).await?;
        for upload in &unused.uploads {
            let aborted = self.store.abort(&upload.key, &upload.upload_id).await;
            aborted.map_err(|source| PruneError::Abort {
                key: upload.key.clone(),
                source,
            })?;
        }
        Ok(unused)
    }
}

/// Wherever it lies: what one names that is not ours is no harm.
fn is_index(key: &str) -> bool {
    key.rsplit('/').next() == Some(INDEX)
}
