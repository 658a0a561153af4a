//! What a picture says of itself, read without decoding or allocating: its kind and size, and whether its bytes are all
//! there. What breaks a rule is refused here, before a decoder sees it.

use std::ops::RangeInclusive;

/// The largest picture, in bytes; far above what the models' sizes need.
pub const MAX_IMAGE_BYTES: usize = 20_000_000;
/// A picture's shorter and longer side. Below, nothing is left to animate; above lies no camera.
pub const SIDES: RangeInclusive<u32> = 128..=8192;
pub const MAX_PIXELS: u64 = 40_000_000;
/// How much longer one side may be: more than this would be cut away to fit a model's size.
pub const MAX_ASPECT: u64 = 4;
/// A progressive JPEG repeats its picture in each scan, and a scan may be a few bytes: encoders write some ten.
const MAX_SCANS: usize = 50;
/// The colour type of PNGs whose pixels are numbers of a palette, and its length: 256 colours.
pub(super) const PNG_PALETTE: u8 = 3;
const MAX_PALETTE: usize = 3 * 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Jpeg,
    Png,
    WebP,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub width: u32,
    pub height: u32,
}

/// Why a picture is refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the image is larger than 20 MB: make it smaller")]
    Bytes,
    #[error("the image is neither JPEG, PNG nor WebP: save it as one of these")]
    Format,
    #[error("the image is incomplete: send all of its bytes")]
    Truncated,
    #[error("the image is damaged ({0}): save it again")]
    Damaged(String),
    #[error("the image is animated: send a single frame")]
    Animated,
    #[error("the image has {0} bits per channel: save it with 8")]
    Depth(u8),
    #[error("the image has CMYK colours: save it as RGB")]
    Color,
    #[error("the image is {width}x{height}: each side must have {} to {} pixels", SIDES.start(), SIDES.end())]
    Sides { width: u32, height: u32 },
    #[error("the image has {0} pixels, more than 40 million: make it smaller")]
    Pixels(u64),
    #[error(
        "the image is {width}x{height}: one side is more than {MAX_ASPECT} times the other; crop it"
    )]
    Aspect { width: u32, height: u32 },
}

impl Flaw {
    /// The rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Bytes => "size",
            Self::Format => "format",
            Self::Truncated => "whole",
            Self::Damaged(_) => "decodes",
            Self::Animated => "still",
            Self::Depth(_) => "depth",
            Self::Color => "color",
            Self::Sides { .. } => "sides",
            Self::Pixels(_) => "pixels",
            Self::Aspect { .. } => "aspect",
        }
    }

    fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

impl Kind {
    fn sniff(bytes: &[u8]) -> Option<Self> {
        let riff = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            _ if riff => Some(Self::WebP),
            _ => None,
        }
    }
}

impl Header {
    pub fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        if bytes.len() > MAX_IMAGE_BYTES {
            return Err(Flaw::Bytes);
        }
        let kind = Kind::sniff(bytes).ok_or(Flaw::Format)?;
        let (width, height) = match kind {
            Kind::Jpeg => jpeg(bytes),
            Kind::Png => png(bytes),
            Kind::WebP => webp(bytes),
        }?;
        let header = Self {
            kind,
            width,
            height,
        };
        header.check()?;
        Ok(header)
    }

    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether the size is one that is taken.
    pub fn check(&self) -> Result<(), Flaw> {
        let Self { width, height, .. } = *self;
        if !SIDES.contains(&width) || !SIDES.contains(&height) {
            return Err(Flaw::Sides { width, height });
        }
        if self.pixels() > MAX_PIXELS {
            return Err(Flaw::Pixels(self.pixels()));
        }
        if u64::from(width.max(height)) > MAX_ASPECT * u64::from(width.min(height)) {
            return Err(Flaw::Aspect { width, height });
        }
        Ok(())
    }
}

/// The next `count` bytes; the reader moves on.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Flaw> {
    let (taken, after) = rest.split_at_checked(count).ok_or(Flaw::Truncated)?;
    *rest = after;
    Ok(taken)
}

fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Flaw> {
    let taken = take(rest, N)?;
    Ok(taken
        .try_into()
        .expect("take gives as many as were asked for"))
}

/// Segments up to the frame, then scans up to the end of the image.
fn jpeg(bytes: &[u8]) -> Result<(u32, u32), Flaw> {
    let mut rest = &bytes[2..];
    let (mut size, mut scans) = (None, 0);
    loop {
        match next_marker(&mut rest)? {
            0xd9 if scans > 0 => return size.ok_or(Flaw::damaged("a JPEG without a frame")),
            0xd9 => return Err(Flaw::damaged("a JPEG without a scan")),
            // It stands alone, without a length.
            0x01 => {}
            0xd8 => return Err(Flaw::damaged("a JPEG inside a JPEG")),
            marker => {
                let segment = segment(&mut rest)?;
                match marker {
                    0xc0..=0xc2 if size.is_some() => {
                        return Err(Flaw::damaged("a JPEG with two frames"));
                    }
                    0xc0..=0xc2 => size = Some(frame(segment)?),
                    0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Err(Flaw::Format),
                    0xda => {
                        scans += 1;
                        if scans > MAX_SCANS {
                            return Err(Flaw::damaged("a JPEG of too many scans"));
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What a marker says. A length below two counts as none, as in libjpeg: where it matters, the decoder misses the rest.
pub(super) fn segment<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Flaw> {
    let length = usize::from(u16::from_be_bytes(number(rest)?));
    take(rest, length.saturating_sub(2))
}

/// Passes over what is coded until a marker stands there: in coded data each 0xff is followed by 0 or a restart.
pub(super) fn next_marker(rest: &mut &[u8]) -> Result<u8, Flaw> {
    loop {
        let at = rest.iter().position(|byte| *byte == 0xff);
        *rest = &rest[at.ok_or(Flaw::Truncated)? + 1..];
        match rest.first() {
            None => return Err(Flaw::Truncated),
            Some(0x00 | 0xd0..=0xd7 | 0xff) => {}
            Some(marker) => {
                *rest = &rest[1..];
                return Ok(*marker);
            }
        }
    }
}

fn frame(mut segment: &[u8]) -> Result<(u32, u32), Flaw> {
    let rest = &mut segment;
    let [depth] = number(rest)?;
    let height = u16::from_be_bytes(number(rest)?);
    let width = u16::from_be_bytes(number(rest)?);
    let [components] = number(rest)?;
    match (depth, components) {
        (8, 1 | 3) => Ok((width.into(), height.into())),
        (8, 4) => Err(Flaw::Color),
        (8, _) => Err(Flaw::damaged("a JPEG of unknown colours")),
        _ => Err(Flaw::Depth(depth)),
    }
}

/// Chunks up to IEND. Their checksums are the decoder's matter.
fn png(bytes: &[u8]) -> Result<(u32, u32), Flaw> {
    let mut rest = &bytes[8..];
    let (mut size, mut palette, mut data) = (None, false, false);
    loop {
        let length = u32::from_be_bytes(number(&mut rest)?) as usize;
        let name: [u8; 4] = number(&mut rest)?;
        let mut chunk = take(&mut rest, length)?;
        take(&mut rest, 4)?;
        if size.is_none() != (&name == b"IHDR") {
            return Err(Flaw::damaged("a PNG whose header is not its first chunk"));
        }
        match &name {
            b"IHDR" => {
                let width = u32::from_be_bytes(number(&mut chunk)?);
                let height = u32::from_be_bytes(number(&mut chunk)?);
                let [depth, colours] = number(&mut chunk)?;
                if depth > 8 {
                    return Err(Flaw::Depth(depth));
                }
                palette = colours == PNG_PALETTE;
                size = Some((width, height));
            }
            b"acTL" | b"fcTL" | b"fdAT" => return Err(Flaw::Animated),
            // Elsewhere it is a proposal for screens of few colours.
            b"PLTE" if palette && (!length.is_multiple_of(3) || length > MAX_PALETTE) => {
                return Err(Flaw::damaged("a PNG with a bad palette"));
            }
            b"IDAT" => data = true,
            b"IEND" if data => return size.ok_or(Flaw::damaged("a PNG without a header")),
            b"IEND" => return Err(Flaw::damaged("a PNG without a picture")),
            _ => {}
        }
    }
}

/// The chunks of a RIFF file: one picture, and with VP8X the size that it must have.
fn webp(bytes: &[u8]) -> Result<(u32, u32), Flaw> {
    let mut rest = &bytes[4..];
    let length = u32::from_le_bytes(number(&mut rest)?) as usize;
    let mut rest = rest.get(..length).ok_or(Flaw::Truncated)?;
    take(&mut rest, 4)?;
    let (mut canvas, mut picture) = (None, None);
    while !rest.is_empty() {
        let name: [u8; 4] = number(&mut rest)?;
        let length = u32::from_le_bytes(number(&mut rest)?) as usize;
        let mut chunk = take(&mut rest, length)?;
        // A chunk of odd length is followed by a byte, which careless writers leave out at the end.
        if length % 2 == 1 && !rest.is_empty() {
            take(&mut rest, 1)?;
        }
        match &name {
            b"VP8X" => {
                let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = number(&mut chunk)?;
                if flags & 0b10 != 0 {
                    return Err(Flaw::Animated);
                }
                let side = |bytes| u32::from_le_bytes(bytes) + 1;
                canvas = Some((side([w0, w1, w2, 0]), side([h0, h1, h2, 0])));
            }
            b"ANIM" | b"ANMF" => return Err(Flaw::Animated),
            b"VP8 " | b"VP8L" if picture.is_some() => {
                return Err(Flaw::damaged("a WebP with two pictures"));
            }
            b"VP8 " => picture = Some(lossy(chunk)?),
            b"VP8L" => picture = Some(lossless(chunk)?),
            _ => {}
        }
    }
    match (canvas, picture) {
        (_, None) => Err(Flaw::damaged("a WebP without a picture")),
        (Some(canvas), Some(picture)) if canvas != picture => {
            Err(Flaw::damaged("a WebP whose picture has another size"))
        }
        (_, Some(picture)) => Ok(picture),
    }
}

fn lossy(mut chunk: &[u8]) -> Result<(u32, u32), Flaw> {
    let [frame, _, _, a, b, c, w0, w1, h0, h1] = number(&mut chunk)?;
    if frame & 1 != 0 || [a, b, c] != [0x9d, 0x01, 0x2a] {
        return Err(Flaw::damaged("a WebP that begins within a film"));
    }
    // The upper two bits only wish for a scale.
    let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff);
    Ok((side([w0, w1]), side([h0, h1])))
}

fn lossless(mut chunk: &[u8]) -> Result<(u32, u32), Flaw> {
    let [signature] = number(&mut chunk)?;
    if signature != 0x2f {
        return Err(Flaw::damaged("a WebP without its signature"));
    }
    let bits = u32::from_le_bytes(number(&mut chunk)?);
    Ok(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
}
