//! First frames in, links to videos out.
//!
//! A picture is decoded before a task may name it, and its pixels are stored anew: they are what is rendered, under the
//! hash of their file, wherever the picture came from. The same bytes of a client always have the same key.

mod bare;
mod decode;
mod header;
mod jpeg;
mod png;
mod scans;
mod seen;
#[cfg(test)]
mod tests;
mod webp;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use spotreel_api::{ApiError, ImageSource, TaskView};
use spotreel_s3::{GetBytesError, ObjectInfo, Store};
use tokio::sync::Semaphore;

use crate::error;
pub use decode::Normal;
pub use header::{Flaw, MAX_IMAGE_BYTES};
use header::{Header, Kind, MAX_PIXELS};
use seen::{Object, Seen};

/// Requests to the store at once.
const STORE_REQUESTS: usize = 32;
/// Objects of the bucket that are held while they are checked: four of the largest are 80 MB.
const OBJECTS_HELD: usize = 4;
/// Decoded at once: one of the largest, or many small ones. The hungriest decoders, those of progressive JPEG and of lossy
/// WebP with transparency, take ten bytes a pixel with what they decode into: 400 MB.
#[expect(clippy::cast_possible_truncation, reason = "it is 40")]
const MEGAPIXELS_AT_ONCE: u32 = (MAX_PIXELS / MEGAPIXEL) as u32;
const MEGAPIXEL: u64 = 1_000_000;
/// Metadata of what was stored here, with its size: it need not be read again.
const MARK: &str = "spotreel-picture";
const CONTENT_TYPE: &str = "image/png";

#[derive(Clone)]
pub struct Images {
    store: Store,
    link_lasts: Duration,
    places: Arc<Semaphore>,
    objects: Arc<Semaphore>,
    megapixels: Arc<Semaphore>,
    seen: Arc<Seen>,
}

/// A picture that a task may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptImage {
    pub key: String,
    /// As it is stored, upright.
    pub width: u32,
    pub height: u32,
}

impl Images {
    pub fn new(store: Store, link_lasts: Duration) -> Self {
        Self {
            store,
            link_lasts,
            places: Arc::new(Semaphore::new(STORE_REQUESTS)),
            objects: Arc::new(Semaphore::new(OBJECTS_HELD)),
            megapixels: Arc::new(Semaphore::new(MEGAPIXELS_AT_ONCE as usize)),
            seen: Arc::default(),
        }
    }

    /// The picture, once it is stored.
    pub async fn settle(&self, image: &ImageSource) -> Result<KeptImage, ApiError> {
        let _place = enter(&self.places, 1).await;
        match image {
            ImageSource::S3Key(key) => self.find(key).await,
            ImageSource::Base64(text) => {
                let bytes = decode_text(text)?;
                self.keep(bytes, "image.base64").await
            }
        }
    }

    /// Stores a picture as engines are given it. A refusal names `field`.
    pub async fn keep(&self, bytes: Bytes, field: &str) -> Result<KeptImage, ApiError> {
        let Normal {
            bytes,
            width,
            height,
        } = normalise(&self.megapixels, bytes, field).await?;
        let kept = KeptImage {
            key: format!("images/{}.png", hex::encode(Sha256::digest(&bytes))),
            width,
            height,
        };
        let mark = HashMap::from([(MARK.to_owned(), format!("{width}x{height}"))]);
        // The key is the content: whoever was there first has put the same bytes.
        match self
            .store
            .put_bytes(&kept.key, bytes.into(), CONTENT_TYPE, true, mark)
            .await
        {
            Ok(_) => Ok(kept),
            Err(failure) => Err(store_away(&failure)),
        }
    }

    /// A client's own object is stored anew under a hash: it could be replaced after it was checked.
    async fn find(&self, key: &str) -> Result<KeptImage, ApiError> {
        const FIELD: &str = "image.s3_key";
        let found = self.head(key).await?.ok_or_else(|| missing(key))?;
        if found.bytes > MAX_IMAGE_BYTES as u64 {
            return Err(refuse(FIELD, &Flaw::Bytes));
        }
        if let Some(kept) = kept(key, &found) {
            return Ok(kept);
        }
        let object = Object::new(key, &found);
        if let Some(kept) = object.as_ref().and_then(|object| self.seen.recall(object))
            && self.head(&kept.key).await?.is_some()
        {
            return Ok(kept);
        }
        let _place = enter(&self.objects, 1).await;
        let bytes = match self.store.get_bytes(key, MAX_IMAGE_BYTES as u64).await {
            Ok(bytes) => bytes,
            Err(GetBytesError::Missing { .. }) => return Err(missing(key)),
            Err(GetBytesError::TooLarge { .. }) => return Err(refuse(FIELD, &Flaw::Bytes)),
            Err(failure) => return Err(store_away(&failure)),
        };
        let kept = self.keep(bytes, FIELD).await?;
        if let Some(object) = object {
            self.seen.remember(object, kept.clone());
        }
        Ok(kept)
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, ApiError> {
        let found = self.store.head(key).await;
        found.map_err(|failure| store_away(&failure))
    }

    /// Adds a fresh link where there is a video. Without one the view is still right.
    pub async fn link(&self, mut view: TaskView, now: Timestamp) -> TaskView {
        if let Some(video) = &mut view.video {
            let name = format!("{}.mp4", view.id);
            let key = &video.artifact.key;
            let signed = self.store.presign_get(key, Some(&name), self.link_lasts);
            match signed.await {
                Ok(link) => {
                    video.url = Some(link.url);
                    video.url_expires_at = now.checked_add(link.lasts).ok();
                }
                Err(failure) => {
                    tracing::warn!(error = %failure, task = %view.id, "signing a link failed");
                }
            }
            if let Some(key) = &video.artifact.poster {
                let signed = self.store.presign_get(key, None, self.link_lasts).await;
                video.poster_url = signed.ok().map(|link| link.url);
            }
        }
        view
    }

    /// A fresh link for HEAD to a video.
    pub async fn link_for_head(&self, key: &str) -> Option<String> {
        let signed = self.store.presign_head(key, self.link_lasts).await;
        let signed = signed.inspect_err(|failure| {
            tracing::warn!(error = %failure, key, "signing a link failed");
        });
        signed.ok().map(|link| link.url)
    }

    pub async fn check(&self) -> Result<(), String> {
        self.store.check().await.map_err(|error| error.to_string())
    }
}

/// All that is done to a picture before it is kept, for bytes from anywhere.
pub fn examine(bytes: &[u8]) -> Result<Normal, Flaw> {
    let header = Header::read(bytes)?;
    decode::normalise(bytes, &header)
}

/// A decoder goes on when its caller has gone, a client that hangs up: its place goes with it.
async fn normalise(
    megapixels: &Arc<Semaphore>,
    bytes: Bytes,
    field: &str,
) -> Result<Normal, ApiError> {
    let read = bytes.clone();
    let header = aside(field, move || Header::read(&read)).await?;
    let wanted = u32::try_from(header.pixels().div_ceil(MEGAPIXEL));
    let wanted = wanted.unwrap_or(u32::MAX).min(MEGAPIXELS_AT_ONCE);
    let place = megapixels.clone().acquire_many_owned(wanted).await;
    let place = place.expect("the semaphore is never closed");
    aside(field, move || {
        let _place = place;
        decode::normalise(&bytes, &header)
    })
    .await
}

async fn enter(places: &Semaphore, count: u32) -> tokio::sync::SemaphorePermit<'_> {
    let place = places.acquire_many(count).await;
    place.expect("the semaphore is never closed")
}

/// Does on a thread of its own what takes long. A decoder that panics has met a picture that it cannot read.
async fn aside<T: Send + 'static>(
    field: &str,
    work: impl FnOnce() -> Result<T, Flaw> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|flaw| refuse(field, &flaw)),
        Err(ended) if ended.is_panic() => {
            tracing::warn!(field, "image decoder panicked");
            let flaw = Flaw::Damaged("its decoder gave up".to_owned());
            Err(refuse(field, &flaw))
        }
        Err(_) => Err(error::unavailable("intake is stopping")),
    }
}

/// The bytes of a picture in base64, unread.
pub fn decode_text(text: &str) -> Result<Bytes, ApiError> {
    const FIELD: &str = "image.base64";
    // Four characters hold three bytes: what is too long need not be decoded.
    if text.len() / 4 * 3 > MAX_IMAGE_BYTES + 2 {
        return Err(refuse(FIELD, &Flaw::Bytes));
    }
    let bytes = STANDARD.decode(text).map_err(|bad| {
        let message = format!("the image is not standard base64 with padding: {bad}");
        error::broken(FIELD, "base64", message)
    })?;
    Ok(bytes.into())
}

/// The picture, where [`Images::keep`] has put the object there. Whoever may write to the bucket can write such metadata too:
/// a size that no stored picture has makes the object one of a client's own, which is read and checked.
fn kept(key: &str, found: &ObjectInfo) -> Option<KeptImage> {
    let sha256 = found.sha256.as_ref()?;
    let name = key.strip_prefix("images/")?.strip_suffix(".png")?;
    let (width, height) = found.metadata.get(MARK)?.split_once('x')?;
    let header = Header {
        kind: Kind::Png,
        width: width.parse().ok()?,
        height: height.parse().ok()?,
    };
    header.check().ok()?;
    (name == sha256).then(|| KeptImage {
        key: key.to_owned(),
        width: header.width,
        height: header.height,
    })
}

fn refuse(field: &str, flaw: &Flaw) -> ApiError {
    error::broken(field, flaw.rule(), flaw.to_string())
}

fn missing(key: &str) -> ApiError {
    let message = format!("there is no object {key:?} in the bucket: upload it first");
    error::broken("image.s3_key", "exists", message)
}

fn store_away(failure: &dyn std::fmt::Display) -> ApiError {
    tracing::warn!(error = %failure, "reading an image from the object store failed");
    error::unavailable("the object store does not answer now")
}
