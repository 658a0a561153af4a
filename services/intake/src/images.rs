//! First frames in, links to videos out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use spotreel_domain::api::{ApiError, TaskView};
use spotreel_domain::request::{ImageSource, hex};
use spotreel_s3::Store;
use tokio::sync::Semaphore;

use crate::error;

/// The largest picture, decoded; far above what the models' sizes need.
pub const MAX_IMAGE_BYTES: usize = 20_000_000;
/// Requests to the store at once.
const STORE_REQUESTS: usize = 32;

#[derive(Clone)]
pub struct Images {
    store: Store,
    link_lasts: Duration,
    places: Arc<Semaphore>,
}

impl Images {
    pub fn new(store: Store, link_lasts: Duration) -> Self {
        Self {
            store,
            link_lasts,
            places: Arc::new(Semaphore::new(STORE_REQUESTS)),
        }
    }

    /// The key under which the picture lies, once it does.
    pub async fn settle(&self, image: &ImageSource) -> Result<String, ApiError> {
        let _place = self
            .places
            .acquire()
            .await
            .expect("the semaphore is never closed");
        match image {
            ImageSource::S3Key(key) => self.find(key).await,
            ImageSource::Base64(text) => self.store_inline(text).await,
        }
    }

    async fn find(&self, key: &str) -> Result<String, ApiError> {
        match self.store.head(key).await {
            Ok(Some(_)) => Ok(key.to_owned()),
            Ok(None) => {
                let message = format!("there is no object {key:?} in the bucket: upload it first");
                Err(error::broken("image.s3_key", "exists", message))
            }
            Err(failure) => Err(store_away(&failure)),
        }
    }

    async fn store_inline(&self, text: &str) -> Result<String, ApiError> {
        let (bytes, kind) = decode(text)?;
        let key = format!("images/{}.{}", hex(&Sha256::digest(&bytes)), kind.extension);
        // The key is the content: whoever was there first has put the same bytes.
        match self
            .store
            .put_bytes(&key, bytes.into(), kind.content_type, true, HashMap::new())
            .await
        {
            Ok(_) => Ok(key),
            Err(failure) => Err(store_away(&failure)),
        }
    }

    /// Adds a fresh link where there is a video. Without one the view is still right.
    pub async fn link(&self, mut view: TaskView, now: Timestamp) -> TaskView {
        if let Some(video) = &mut view.video {
            match self
                .store
                .presign_get(&video.artifact.key, self.link_lasts)
                .await
            {
                Ok(url) => {
                    video.url = Some(url);
                    video.url_expires_at = now.checked_add(self.link_lasts).ok();
                }
                Err(failure) => {
                    tracing::warn!(error = %failure, task = %view.id, "no link could be signed");
                }
            }
        }
        view
    }

    pub async fn check(&self) -> Result<(), String> {
        self.store.check().await.map_err(|error| error.to_string())
    }
}

#[derive(Debug)]
struct Kind {
    extension: &'static str,
    content_type: &'static str,
}

fn decode(text: &str) -> Result<(Vec<u8>, Kind), ApiError> {
    let refuse = |rule, message: &str| error::broken("image.base64", rule, message);
    // Four characters hold three bytes: what is too long need not be decoded.
    if text.len() / 4 * 3 > MAX_IMAGE_BYTES + 2 {
        return Err(refuse(
            "size",
            "the image is larger than 20 MB: upload it and give its s3_key",
        ));
    }
    let bytes = STANDARD.decode(text).map_err(|bad| {
        refuse(
            "base64",
            &format!("the image is not standard base64 with padding: {bad}"),
        )
    })?;
    if bytes.len() > MAX_IMAGE_BYTES {
        return Err(refuse(
            "size",
            "the image is larger than 20 MB: upload it and give its s3_key",
        ));
    }
    match sniff(&bytes) {
        Some(kind) => Ok((bytes, kind)),
        None => Err(refuse("format", "the image is neither JPEG, PNG nor WebP")),
    }
}

fn sniff(bytes: &[u8]) -> Option<Kind> {
    let (extension, content_type) = match bytes {
        [0xff, 0xd8, 0xff, ..] => ("jpg", "image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ("png", "image/png"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => ("webp", "image/webp"),
        _ => return None,
    };
    Some(Kind {
        extension,
        content_type,
    })
}

fn store_away(failure: &dyn std::fmt::Display) -> ApiError {
    tracing::warn!(error = %failure, "the object store did not serve an image");
    error::unavailable("the object store does not answer now")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_are_taken() {
        let rule = |text: &str| decode(text).unwrap_err().violations[0].rule.clone();
        assert_eq!(rule("%%%"), "base64");
        assert_eq!(rule(&STANDARD.encode("GIF89a")), "format");
        assert_eq!(rule(""), "format");
        assert_eq!(rule(&"A".repeat(MAX_IMAGE_BYTES / 3 * 4 + 64)), "size");
        assert_eq!(
            decode(&STANDARD.encode(b"\xff\xd8\xff\xe0"))
                .unwrap()
                .1
                .extension,
            "jpg"
        );
    }
}
