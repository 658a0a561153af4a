//! A picture as engines are given it: upright, in sRGB, opaque, and nothing but its pixels.
//!
//! An engine's decoder never meets the bytes that a client sent. What stands in them beside the pixels is read here, once and
//! with bounds: the orientation and the colour profile. The rest is dropped.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageResult, Limits, RgbImage,
};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

use super::bare::Bare;
use super::header::{Flaw, Header, Kind, MAX_ASPECT, SIDES};
use super::{jpeg, png, webp};

/// A decoded pixel has four bytes at most: RGBA.
const PIXEL_BYTES: u64 = 4;
/// More than six times the pixels of the largest video. As a PNG they are 18 MB at worst, below what engines take.
const MAX_KEPT_PIXELS: u64 = 6_000_000;
/// A few kilobytes are usual, two megabytes the largest known. A longer one counts as none.
const MAX_PROFILE: usize = 16 << 20;
/// How a decoder hands out a pixel.
const RGB: u8 = 3;

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    /// A PNG of three times eight bits, without metadata. The same picture has the same bytes.
    pub bytes: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

pub fn normalise(bytes: &[u8], header: &Header) -> Result<Normal, Flaw> {
    let bare = bare(bytes, header.kind)?;
    let read = Cursor::new(&bare.bytes);
    let upright = match header.kind {
        Kind::Jpeg => JpegDecoder::new(read).and_then(|decoder| run(decoder, header, &bare)),
        Kind::Png => PngDecoder::with_limits(read, limits(header))
            .and_then(|decoder| run(decoder, header, &bare)),
        Kind::WebP => WebPDecoder::new(read).and_then(|decoder| run(decoder, header, &bare)),
    };
    let damaged = |error: image::ImageError| Flaw::Damaged(error.to_string());
    let picture = upright.map_err(damaged)?;
    let (width, height) = picture.dimensions();
    let mut bytes = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    let written = encoder.write_image(&picture, width, height, ExtendedColorType::Rgb8);
    written.map_err(damaged)?;
    Ok(Normal {
        bytes,
        width,
        height,
    })
}

/// The header was read before, so the file is whole.
fn bare(bytes: &[u8], kind: Kind) -> Result<Bare, Flaw> {
    match kind {
        Kind::Jpeg => jpeg::bare(bytes),
        Kind::Png => Ok(png::bare(bytes)),
        Kind::WebP => Ok(webp::bare(bytes)),
    }
}

/// The pixels, as much again for what a decoder keeps beside them, and one profile. A PNG's profile is compressed: without
/// this bound a few kilobytes of it become hundreds of megabytes.
pub(super) fn limits(header: &Header) -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(*SIDES.end());
    limits.max_image_height = Some(*SIDES.end());
    limits.max_alloc = Some(header.pixels() * PIXEL_BYTES * 2 + MAX_PROFILE as u64);
    limits
}

fn run<D: ImageDecoder>(mut decoder: D, header: &Header, bare: &Bare) -> ImageResult<RgbImage> {
    decoder.set_limits(limits(header))?;
    if decoder.dimensions() != (header.width, header.height)
        || decoder.total_bytes() > header.pixels() * PIXEL_BYTES
    {
        let kind = image::error::LimitErrorKind::DimensionError;
        let error = image::error::LimitError::from_kind(kind);
        return Err(image::ImageError::Limits(error));
    }
    let packed = decoder.icc_profile().unwrap_or_default();
    let profile = bare.profile.as_ref().or(packed.as_ref());
    let is_coloured = decoder.color_type().channel_count() >= RGB;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    if let Some((width, height)) = smaller(header.width, header.height) {
        picture = picture.thumbnail_exact(width, height);
    }
    if let Some(orientation) = bare.orientation {
        picture.apply_orientation(orientation);
    }
    let mut picture = on_black(picture);
    if let Some(profile) = profile.filter(|_| is_coloured) {
        to_srgb(&mut picture, profile);
    }
    Ok(picture)
}

/// The size to which a picture is reduced that has more pixels than are kept.
fn smaller(width: u32, height: u32) -> Option<(u32, u32)> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels <= MAX_KEPT_PIXELS {
        return None;
    }
    let side = |side: u32| {
        let side = u64::from(side);
        (side * side * MAX_KEPT_PIXELS / pixels).isqrt()
    };
    let (width, height) = (side(width), side(height));
    // Rounding may make a picture longer than is taken.
    let (width, height) = (
        width.min(height * MAX_ASPECT),
        height.min(width * MAX_ASPECT),
    );
    let side = |side| u32::try_from(side).expect("it is smaller than it was");
    Some((side(width), side(height)))
}

/// What is transparent lies on black.
fn on_black(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let mut flat = Vec::with_capacity(picture.len() / 4 * 3);
    for pixel in picture.pixels() {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        for channel in [red, green, blue] {
            let laid = (channel * alpha + 127) / 255;
            flat.push(u8::try_from(laid).expect("it is at most 255"));
        }
    }
    RgbImage::from_raw(width, height, flat).expect("there are three bytes for each pixel")
}

/// A profile that cannot be used is no profile.
fn to_srgb(picture: &mut RgbImage, profile: &[u8]) {
    if profile.len() > MAX_PROFILE {
        return;
    }
    let Ok(profile) = ColorProfile::new_from_slice(profile) else {
        return;
    };
    if profile.color_space != DataColorSpace::Rgb {
        return;
    }
    let srgb = ColorProfile::new_srgb();
    let transform =
        profile.create_transform_8bit(Layout::Rgb, &srgb, Layout::Rgb, TransformOptions::default());
    let Ok(transform) = transform else { return };
    let mut converted = vec![0; picture.len()];
    if transform.transform(picture, &mut converted).is_ok() {
        picture.copy_from_slice(&converted);
    }
}
