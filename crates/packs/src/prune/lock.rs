//! Why a push and a prune can meet.
//!
//! A push does not send what the bucket has. That may be an old blob that no pack names, and a prune that has read the
//! indexes already is about to remove it; its age says nothing. So there is an object as long as a prune reads and removes,
//! and a push, once its own pack.json is written, waits until it is gone and looks at every blob again. A prune that takes
//! the lock after that reads the new index. One that took it before is done: what it removed is missed and sent again.
//!
//! The lock does not run out. A prune that was only held up would go on under the next one's, and there is no way to
//! tell it from one that was killed: a person deletes the object.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use spotreel_s3::{GetBytesError, Put};

use super::PruneError;
use crate::Remote;

const LOCK: &str = "prune.lock";
const LOCK_TYPE: &str = "text/plain; charset=utf-8";
/// A line about who it is.
const MAX_HOLDER_BYTES: u64 = 1024;
/// A prune is a listing, some indexes and a delete: seconds. In all a minute.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

impl Remote {
    pub(crate) fn lock_key(&self) -> String {
        format!("{}{LOCK}", self.prefix())
    }

    pub(super) async fn lock(&self, holder: &str) -> Result<(), PruneError> {
        let key = self.lock_key();
        let text = Bytes::from(holder.to_owned());
        let put = self
            .store
            .put_bytes(&key, text, LOCK_TYPE, true, HashMap::new());
        match put.await {
            Ok(Put::Created) => Ok(()),
            Ok(Put::Exists) => match self.holder().await {
                // Our own write, whose answer was lost.
                Ok(Some(found)) if found == holder => Ok(()),
                Ok(found) => Err(PruneError::Locked {
                    key,
                    holder: found.unwrap_or_else(|| "it ends just now".to_owned()),
                }),
                Err(source) => Err(PruneError::Holder { key, source }),
            },
            Err(source) => Err(PruneError::Lock { key, source }),
        }
    }

    pub(super) async fn unlock(&self) -> Result<(), PruneError> {
        let key = self.lock_key();
        let deleted = self.store.delete(&key).await;
        deleted.map_err(|source| PruneError::Unlock { key, source })
    }

    /// Who holds the lock; none: nobody.
    async fn holder(&self) -> Result<Option<String>, GetBytesError> {
        match self
            .store
            .get_bytes(&self.lock_key(), MAX_HOLDER_BYTES)
            .await
        {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(GetBytesError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits while a prune holds the lock; who it still is after the last look.
    pub(crate) async fn wait_for_prune(&self) -> Result<Option<String>, GetBytesError> {
        for _ in 1..LOOKS {
            if self.holder().await?.is_none() {
                return Ok(None);
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.holder().await
    }
}
