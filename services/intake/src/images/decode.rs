//! Decodes a picture to know that an engine can: the pixels are thrown away.

use std::io::Cursor;

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ImageDecoder, ImageResult, Limits};

use super::header::{Flaw, Header, Kind, MAX_PIXELS, SIDES};

/// The pixels as RGBA, and as much again for what a decoder keeps beside them.
const MAX_ALLOC: u64 = MAX_PIXELS * 4 * 2;

/// Width and height as a viewer shows them: EXIF may lay the picture on its side.
pub fn check(bytes: &[u8], header: &Header) -> Result<(u32, u32), Flaw> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(*SIDES.end());
    limits.max_image_height = Some(*SIDES.end());
    limits.max_alloc = Some(MAX_ALLOC);
    let read = Cursor::new(bytes);
    let turned = match header.kind {
        Kind::Jpeg => JpegDecoder::new(read).and_then(|decoder| run(decoder, header, limits)),
        Kind::Png => PngDecoder::with_limits(read, limits.clone())
            .and_then(|decoder| run(decoder, header, limits)),
        Kind::WebP => WebPDecoder::new(read).and_then(|decoder| run(decoder, header, limits)),
    };
    let turned = turned.map_err(|error| Flaw::Damaged(error.to_string()))?;
    Ok(match turned {
        true => (header.height, header.width),
        false => (header.width, header.height),
    })
}

/// Whether width and height change places.
fn run<D: ImageDecoder>(mut decoder: D, header: &Header, limits: Limits) -> ImageResult<bool> {
    decoder.set_limits(limits)?;
    let bytes = decoder.total_bytes();
    if decoder.dimensions() != (header.width, header.height) || bytes > MAX_ALLOC / 2 {
        let kind = image::error::LimitErrorKind::DimensionError;
        let error = image::error::LimitError::from_kind(kind);
        return Err(image::ImageError::Limits(error));
    }
    // Camera data that cannot be read says nothing: viewers show the picture as it lies.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let bytes = usize::try_from(bytes).expect("it is below MAX_ALLOC");
    decoder.read_image(&mut vec![0; bytes])?;
    Ok(matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    ))
}
