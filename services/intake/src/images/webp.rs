//! A WebP that is its picture alone, and its transparency where that is kept apart.

use super::bare::{Bare, orientation};

/// In the flags of VP8X.
const ALPHA: u8 = 0x10;
const CANVAS_BYTES: usize = 10;

pub fn bare(bytes: &[u8]) -> Bare {
    let chunk = |name| find(bytes, name);
    let canvas = chunk(b"VP8X").filter(|canvas| canvas.len() >= CANVAS_BYTES);
    let mut kept = b"RIFF\0\0\0\0WEBP".to_vec();
    if let Some(picture) = chunk(b"VP8L") {
        push(&mut kept, b"VP8L", picture);
    }
    if let Some(picture) = chunk(b"VP8 ") {
        // Only the lossy kind has its transparency apart.
        let canvas = canvas.filter(|canvas| canvas[0] & ALPHA != 0);
        if let (Some(canvas), Some(alpha)) = (canvas, chunk(b"ALPH")) {
            let size = &canvas[4..CANVAS_BYTES];
            push(&mut kept, b"VP8X", &[&[ALPHA, 0, 0, 0], size].concat());
            push(&mut kept, b"ALPH", alpha);
        }
        push(&mut kept, b"VP8 ", picture);
    }
    let length = u32::try_from(kept.len() - 8).expect("the file is not larger than is taken");
    kept[4..8].copy_from_slice(&length.to_le_bytes());
    Bare {
        bytes: kept,
        orientation: chunk(b"EXIF").and_then(orientation),
        profile: chunk(b"ICCP").map(<[u8]>::to_vec),
    }
}

/// The first chunk of that name.
fn find<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let mut rest = bytes.get(12..usize::try_from(length).ok()?.checked_add(8)?)?;
    loop {
        let (head, after) = rest.split_at_checked(8)?;
        let size = u32::from_le_bytes(head[4..].try_into().ok()?);
        let (chunk, after) = after.split_at_checked(usize::try_from(size).ok()?)?;
        if head.starts_with(name) {
            return Some(chunk);
        }
        rest = after.get(chunk.len() % 2..).unwrap_or_default();
    }
}

fn push(kept: &mut Vec<u8>, name: &[u8; 4], chunk: &[u8]) {
    let length = u32::try_from(chunk.len()).expect("the file is not larger than is taken");
    kept.extend_from_slice(name);
    kept.extend(length.to_le_bytes());
    kept.extend_from_slice(chunk);
    kept.extend(&[0][..chunk.len() % 2]);
}
