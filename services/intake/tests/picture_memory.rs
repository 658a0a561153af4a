//! The memory that pictures take to be examined. A test of its own, because it looks at its whole process.

#![cfg(target_os = "linux")]

use image::{DynamicImage, ImageFormat};
use spotreel_intake::images::examine;

/// What `MEGAPIXELS_AT_ONCE` of intake's pictures says, and room for the process itself.
const MOST_MB: u64 = 400 + 60;
/// 39.9 million pixels.
const SIDE: u16 = 6320;
/// Of eight times eight pixels, with all three components.
const BLOCKS: usize = 790 * 790;

/// The largest that the process has been.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("it is a number of kB") / 1024
}

/// Grey all over: each coefficient is the one before, which one bit says. 234 kB in the file.
fn progressive() -> Vec<u8> {
    let side = SIDE.to_be_bytes();
    let mut jpeg = vec![0xff, 0xd8];
    let mut segment = |marker: u8, body: &[&[u8]]| {
        let body = body.concat();
        let length = u16::try_from(body.len() + 2).expect("it is short");
        jpeg.extend([0xff, marker]);
        jpeg.extend(length.to_be_bytes());
        jpeg.extend(body);
    };
    segment(0xdb, &[&[0], &[1; 64]]);
    let components = [1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
    segment(0xc2, &[&[8], &side, &side, &[3], &components]);
    segment(0xc4, &[&[0, 1], &[0; 15], &[0]]);
    segment(0xda, &[&[3, 1, 0, 2, 0, 3, 0], &[0, 0, 0]]);
    jpeg.resize(jpeg.len() + (BLOCKS * 3).div_ceil(8), 0);
    jpeg.extend([0xff, 0xd9]);
    jpeg
}

fn png() -> Vec<u8> {
    let clear = DynamicImage::new_rgba8(SIDE.into(), SIDE.into());
    let mut bytes = std::io::Cursor::new(Vec::new());
    let written = clear.write_to(&mut bytes, ImageFormat::Png);
    written.expect("it is a picture");
    bytes.into_inner()
}

#[test]
fn no_picture_takes_more_memory_than_is_reckoned_with() {
    for (name, bytes) in [("PNG", png()), ("progressive JPEG", progressive())] {
        assert!(bytes.len() < 1_000_000, "{name}: {} bytes", bytes.len());
        let taken = examine(&bytes).unwrap();
        assert_eq!((taken.width, taken.height), (2449, 2449), "{name}");
        println!("{name}: {} MB", peak_mb());
        assert!(peak_mb() <= MOST_MB, "{name}: {} MB", peak_mb());
    }
}
