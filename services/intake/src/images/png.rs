//! A PNG without what its pixels do not need. Decoders parse texts as well and stumble over what is wrong with them.

use super::bare::{Bare, orientation};
use super::header::PNG_PALETTE;

/// Signature of every PNG.
const SIGNATURE: usize = 8;
/// Length, name and checksum of a chunk.
const FRAME: usize = 12;
/// The largest chunk beside the pixels that is kept. The largest known profile has two megabytes before it is compressed.
const MAX_BESIDE: usize = 4 << 20;
/// Where the header says its colours, and what it says there.
const COLOURS: usize = SIGNATURE + 8 + 9;
const GREY: u8 = 0;
const RGB: u8 = 2;

/// The chunks of the pixels, and of those that say how they are to be seen the ones that are not too long and whose checksum is
/// right. The header was read before, so every chunk is whole.
pub fn bare(bytes: &[u8]) -> Bare {
    let mut kept = bytes[..SIGNATURE].to_vec();
    let colours = bytes[COLOURS];
    let (mut turn, mut pixels, mut palette) = (None, false, false);
    let (mut transparent, mut profile) = (false, false);
    let mut rest = &bytes[SIGNATURE..];
    while let Some((chunk, after)) = next(rest) {
        rest = after;
        let body = &chunk[8..chunk.len() - 4];
        let beside = || !pixels && chunk.len() <= MAX_BESIDE && is_sound(chunk);
        match &chunk[4..8] {
            b"IHDR" => kept.extend_from_slice(chunk),
            b"IDAT" | b"IEND" => {
                pixels = true;
                kept.extend_from_slice(chunk);
            }
            // Elsewhere it is a proposal for screens of few colours.
            b"PLTE" if colours == PNG_PALETTE => {
                palette = true;
                kept.extend_from_slice(chunk);
            }
            b"tRNS" if !transparent && beside() => {
                if let Some(samples) = samples(colours, palette, body) {
                    transparent = true;
                    push(&mut kept, b"tRNS", samples);
                }
            }
            b"iCCP" if !profile && beside() => {
                profile = true;
                kept.extend_from_slice(chunk);
            }
            b"eXIf" if beside() => turn = turn.or_else(|| orientation(body)),
            _ => {}
        }
        if &chunk[4..8] == b"IEND" {
            break;
        }
    }
    Bare {
        bytes: kept,
        orientation: turn,
        profile: None,
    }
}

/// What of a tRNS chunk counts: two bytes a channel, or one a colour of the palette, which comes first.
fn samples(colours: u8, palette: bool, body: &[u8]) -> Option<&[u8]> {
    match colours {
        GREY => body.get(..2),
        RGB => body.get(..6),
        PNG_PALETTE if palette => Some(&body[..body.len().min(256)]),
        _ => None,
    }
}

fn next(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    rest.split_at_checked(usize::try_from(length).ok()?.checked_add(FRAME)?)
}

fn push(kept: &mut Vec<u8>, name: &[u8; 4], body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a chunk is not longer");
    let named = [name, body].concat();
    kept.extend(length.to_be_bytes());
    kept.extend_from_slice(&named);
    kept.extend(crc32(&named).to_be_bytes());
}

fn is_sound(chunk: &[u8]) -> bool {
    let (body, sum) = chunk.split_at(chunk.len() - 4);
    crc32(&body[4..]).to_be_bytes() == sum
}

/// Such chunks are short: a table would not pay.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    })
}
