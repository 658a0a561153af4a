//! The picture that a task names.

use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use spotreel_api::ImageSource;

use crate::print;

/// The server takes no larger picture.
const MAX_IMAGE_BYTES: usize = 20_000_000;

/// A file that is there is sent along; any other text that begins with `images/` is a key.
pub fn image(text: &str) -> anyhow::Result<ImageSource> {
    if !Path::new(text).exists() && text.starts_with("images/") {
        return Ok(ImageSource::S3Key(text.to_owned()));
    }
    let bytes = std::fs::read(text).with_context(|| {
        format!("image {text:?} is neither a readable file nor a key under images/")
    })?;
    if bytes.len() > MAX_IMAGE_BYTES {
        bail!(
            "image {text:?} has {}, at most 20 MB are taken: make it smaller, for instance with \
             `ffmpeg -i {text} -vf scale=1920:-1 small.jpg`; no video is wider than 1920",
            print::bytes(bytes.len() as u64)
        );
    }
    Ok(ImageSource::Base64(STANDARD.encode(bytes)))
}
