//! A JPEG without its APP segments and comments. What they say of the colours is written into the frame instead.

use super::bare::{Bare, EXIF, orientation};
use super::header::{Flaw, next_marker, segment};
use super::scans::Tables;

/// It stands alone, without a length.
const TEM: u8 = 0x01;
const SOI: u8 = 0xd8;
const PROGRESSIVE: u8 = 0xc2;
const DHT: u8 = 0xc4;
const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP2: u8 = 0xe2;
const APP14: u8 = 0xee;
/// Has the decoder use the standard Huffman tables where the file has none, as libjpeg does: frames of Motion JPEG.
const STANDARD_TABLES: &[u8] = b"AVI1\0\0";
const ICC: &[u8] = b"ICC_PROFILE\0";
/// libjpeg takes shorter ones for none.
const JFIF_BYTES: usize = 14;
const ADOBE_BYTES: usize = 12;
/// Where the transform stands in an Adobe segment; 0 says that there is none.
const TRANSFORM: usize = 11;
/// What of its blocks a scan has: the first and last coefficient, and which bits.
const WHOLE_BLOCKS: [u8; 3] = [0, 63, 0];
/// Components' identifiers by which decoders know the colours where no segment says them.
const RGB: [u8; 3] = *b"RGB";
const YCBCR: [u8; 3] = [1, 2, 3];

/// Part of a JPEG: what stood before its marker, and its own bytes.
struct Part<'a> {
    before: &'a [u8],
    marker: u8,
    body: &'a [u8],
}

pub fn bare(bytes: &[u8]) -> Result<Bare, Flaw> {
    let head = || parts(bytes).take_while(|part| part.marker != SOS);
    let sequential = head().all(|part| part.marker != PROGRESSIVE);
    let mut tables = Tables::new(sequential);
    let names = Names::read(head());
    let mut kept = vec![0xff, SOI];
    if sequential {
        push(&mut kept, APP0, STANDARD_TABLES);
    }
    let (mut exif, mut profile, mut in_scan) = (None, Vec::new(), false);
    for part in parts(bytes) {
        if in_scan {
            kept.extend_from_slice(part.before);
        }
        in_scan = part.marker == SOS;
        match part.marker {
            // What scans are decoded with.
            DHT | DQT | DRI => {
                if part.marker == DHT {
                    tables.add(part.body)?;
                }
                push(&mut kept, part.marker, part.body);
            }
            0xc0..=0xc2 | SOS => {
                let mut body = part.body.to_vec();
                if in_scan {
                    tables.check(&body)?;
                }
                // Without passes a block is always sent whole, whatever stands there: libjpeg passes over it.
                if let ([.., first, last, bits], true) = (&mut body[..], in_scan && sequential) {
                    [*first, *last, *bits] = WHOLE_BLOCKS;
                }
                match &names {
                    Some(names) if in_scan => names.scan(&mut body)?,
                    Some(names) => names.frame(&mut body),
                    None => {}
                }
                push(&mut kept, part.marker, &body);
            }
            APP1 if part.body.starts_with(EXIF) => exif = exif.or_else(|| orientation(part.body)),
            APP2 => profile.extend(part.body.strip_prefix(ICC)),
            _ => {}
        }
    }
    kept.extend([0xff, EOI]);
    Ok(Bare {
        bytes: kept,
        orientation: exif,
        profile: joined(profile),
    })
}

/// Up to the end of the picture. There may be millions, so nobody holds them all.
fn parts(bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let mut rest = &bytes[2..];
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let start = rest;
        let marker = next_marker(&mut rest).ok()?;
        let before = &start[..start.len() - rest.len() - 2];
        ended = marker == EOI;
        let body = match marker {
            EOI | TEM => &[][..],
            _ => segment(&mut rest).ok()?,
        };
        Some(Part {
            before,
            marker,
            body,
        })
    })
}

fn push(kept: &mut Vec<u8>, marker: u8, body: &[u8]) {
    let length = u16::try_from(body.len() + 2).expect("no segment is longer");
    kept.extend([0xff, marker]);
    kept.extend(length.to_be_bytes());
    kept.extend_from_slice(body);
}

/// A long profile is spread over segments, each with its number and how many there are.
fn joined(mut parts: Vec<&[u8]>) -> Option<Vec<u8>> {
    parts.retain(|part| part.len() > 2);
    parts.sort_unstable();
    let count = usize::from(parts.first()?[1]);
    let whole = parts.len() == count && parts.iter().zip(1_u8..).all(|(part, at)| part[0] == at);
    whole.then(|| parts.iter().flat_map(|part| &part[2..]).copied().collect())
}

/// Identifiers of three components, as they are and as they are to be.
struct Names {
    found: [u8; 3],
    wanted: [u8; 3],
}

impl Names {
    /// None where the picture has not three components: then they are no matter of names. The rules are libjpeg's.
    fn read<'a>(head: impl Iterator<Item = Part<'a>>) -> Option<Self> {
        let (mut jfif, mut adobe, mut found) = (false, None, None);
        for part in head {
            let body = part.body;
            match part.marker {
                APP0 => jfif |= body.starts_with(b"JFIF\0") && body.len() >= JFIF_BYTES,
                APP14 if body.starts_with(b"Adobe") && body.len() >= ADOBE_BYTES => {
                    adobe = Some(body[TRANSFORM]);
                }
                0xc0..=0xc2 => {
                    if let [_, _, _, _, _, 3, a, _, _, b, _, _, c, _, _] = *body {
                        found = Some([a, b, c]);
                    }
                }
                _ => {}
            }
        }
        let found = found?;
        let is_rgb = !jfif && adobe.map_or(found == RGB, |transform| transform == 0);
        let wanted = if is_rgb { RGB } else { YCBCR };
        Some(Self { found, wanted })
    }

    fn frame(&self, body: &mut [u8]) {
        if let [_, _, _, _, _, 3, a, _, _, b, _, _, c, _, _] = body {
            [*a, *b, *c] = self.wanted;
        }
    }

    /// Each identifier stands for the first component of that name which the scan has not named yet.
    fn scan(&self, body: &mut [u8]) -> Result<(), Flaw> {
        let count = usize::from(body.first().copied().unwrap_or(0));
        let mut named = [false; 3];
        for component in body.iter_mut().skip(1).step_by(2).take(count) {
            let at = (0..3).find(|at| self.found[*at] == *component && !named[*at]);
            let at = at.ok_or_else(|| Flaw::Damaged("a JPEG scan of no component".to_owned()))?;
            named[at] = true;
            *component = self.wanted[at];
        }
        Ok(())
    }
}
