//! Pictures of the unfinished video in S3, beside the checkpoints and removed with them, and a link to the newest one.
//! Nothing depends on them: one that is not stored is only not seen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spotreel_api::PreviewImage;
use spotreel_bootstrap::ambient;
use spotreel_domain::Task;
use spotreel_s3::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::task::checkpoints;

const CONTENT_TYPE: &str = "image/jpeg";
/// No picture of an engine is larger, the first frame in full size included.
const MAX_BYTES: usize = 8 << 20;
/// Each picture has a link of its own, and the next one comes within minutes.
const LINK_LASTS: Duration = Duration::from_secs(60 * 60);

/// Of one render.
pub struct Previews {
    store: Store,
    /// Under which the pictures lie, and the fence that tells attempts apart.
    prefix: String,
    fence: u64,
    uploading: Option<JoinHandle<()>>,
    stored: watch::Sender<Option<PreviewImage>>,
}

impl Previews {
    pub fn begin(store: Store, task: &Task, fence: u64) -> Self {
        Self {
            store,
            prefix: checkpoints::prefix(task),
            fence,
            uploading: None,
            stored: watch::Sender::default(),
        }
    }

    /// The link to the newest picture.
    pub fn stored(&self) -> watch::Receiver<Option<PreviewImage>> {
        self.stored.subscribe()
    }

    /// Uploads a picture beside the render, unless the one before is still on its way.
    pub fn offer(&mut self, path: PathBuf, step: u32) {
        if self
            .uploading
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let key = format!("{}preview-{step:05}-{}.jpg", self.prefix, self.fence);
        let (store, stored) = (self.store.clone(), self.stored.clone());
        self.uploading = Some(tokio::spawn(async move {
            let linked = async {
                put(&store, &key, &path).await?;
                let link = store.presign_get(&key, None, LINK_LASTS).await?;
                let expires = ambient::now().checked_add(link.lasts)?;
                anyhow::Ok((link.url, expires))
            };
            match linked.await {
                Ok((url, url_expires_at)) => {
                    stored.send_replace(Some(PreviewImage {
                        step,
                        url,
                        url_expires_at,
                    }));
                }
                Err(error) => {
                    tracing::debug!(key, error = format!("{error:#}"), "preview upload failed");
                }
            }
        }));
    }
}

/// Puts a picture of the engine's in storage.
pub async fn put(store: &Store, key: &str, path: &Path) -> anyhow::Result<()> {
    let bytes = tokio::fs::read(path).await?;
    anyhow::ensure!(
        bytes.len() <= MAX_BYTES,
        "the picture has more than {MAX_BYTES} bytes"
    );
    store
        .put_bytes(key, bytes.into(), CONTENT_TYPE, true, HashMap::new())
        .await?;
    Ok(())
}
