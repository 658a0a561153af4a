//! Pictures of a render: a small one while it goes on, and the first frame.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use crate::picture::Frame;

const QUALITY: u8 = 85;
/// The longest side of a preview, in pixels.
const SMALL: u32 = 320;

pub fn write(path: &Path, frame: &Frame) -> anyhow::Result<()> {
    save(path, &picture(frame))
}

pub fn write_small(path: &Path, frame: &Frame) -> anyhow::Result<()> {
    let picture = picture(frame);
    let longest = picture.width().max(picture.height());
    let side = |pixels: u32| (pixels * SMALL / longest).max(1);
    let (width, height) = (side(picture.width()), side(picture.height()));
    save(path, &resize(&picture, width, height, FilterType::Triangle))
}

fn save(path: &Path, picture: &RgbImage) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let encoder = JpegEncoder::new_with_quality(BufWriter::new(file), QUALITY);
    picture
        .write_with_encoder(encoder)
        .context("cannot encode a picture")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a side has a few thousand pixels"
)]
fn picture(frame: &Frame) -> RgbImage {
    let (width, height) = (frame.width as u32, frame.height as u32);
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as usize, y as usize);
        let chroma = y / 2 * (frame.width / 2) + x / 2;
        let of = |plane: &[u8], at: usize| i32::from(plane.get(at).copied().unwrap_or(128));
        let luma = of(&frame.luma, y * frame.width + x) - 16;
        let [blue, red] = [0, 1].map(|plane| of(&frame.chroma[plane], chroma) - 128);
        Rgb(rgb(luma, blue, red))
    })
}

/// BT.709 in studio range, in 1024ths.
fn rgb(luma: i32, blue: i32, red: i32) -> [u8; 3] {
    let grey = 1192 * luma;
    [
        grey + 1836 * red,
        grey - 218 * blue - 546 * red,
        grey + 2163 * blue,
    ]
    .map(|value| u8::try_from(value / 1024).unwrap_or(if value < 0 { 0 } else { u8::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_the_video() {
        assert_eq!(rgb(0, 0, 0), [0, 0, 0]);
        assert_eq!(rgb(219, 0, 0), [254, 254, 254]);
        // Red as BT.709 has it: 63, 102, 240.
        let [red, green, blue] = rgb(63 - 16, 102 - 128, 240 - 128);
        assert!(
            red >= 253 && green <= 2 && blue <= 2,
            "{red} {green} {blue}"
        );
    }
}
