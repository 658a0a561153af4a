//! Decoding everything and looking at some of it.

use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use super::error::GateError;
use super::expectation::Expectation;
use super::mp4::Index;

/// Frames that are kept to look at, spread evenly, the first and the last among them.
const LOOKS: usize = 5;
/// Distance of the pixels that are checked, in both directions.
const STRIDE: usize = 4;
/// Black is 16; a fade or a night scene has more somewhere.
const BLACK_MEAN: f64 = 20.0;
const BLACK_VARIANCE: f64 = 4.0;
/// One colour, after lossy coding.
const FLAT_VARIANCE: f64 = 1.0;
/// Mean difference of luma below which two frames are one: what is left of coding a still image twice. The slowest
/// real motion is ten times more.
const STILL: f64 = 0.15;
/// At most one in this number of steps may belong to a keyframe: the engines' keyframes are two seconds apart, at least 32 frames.
const JUMPS: usize = 16;

/// A frame's luma, thinned out.
#[derive(Clone)]
pub struct FrameLook(Vec<u8>);

pub struct Looks {
    kept: Vec<FrameLook>,
    /// How far each frame is from the one before it.
    steps: Vec<f64>,
}

impl FrameLook {
    fn at(frame: &DecodedYUV<'_>) -> Self {
        let (width, height) = frame.dimensions();
        let (stride, _, _) = frame.strides();
        let rows = frame.y().chunks(stride).take(height).step_by(STRIDE);
        Self(
            rows.flat_map(|row| row.iter().take(width).step_by(STRIDE).copied())
                .collect(),
        )
    }

    fn mean(&self) -> f64 {
        average(self.0.iter().map(|level| f64::from(*level)))
    }

    fn variance(&self) -> f64 {
        let mean = self.mean();
        average(
            self.0
                .iter()
                .map(|level| (f64::from(*level) - mean).powi(2)),
        )
    }

    fn difference(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        average(pairs.map(|(a, b)| f64::from(a.abs_diff(*b))))
    }

    pub fn is_black(&self) -> bool {
        self.mean() < BLACK_MEAN && self.variance() < BLACK_VARIANCE
    }

    pub fn is_flat(&self) -> bool {
        self.variance() < FLAT_VARIANCE
    }
}

impl Looks {
    pub fn all(&self, is: impl Fn(&FrameLook) -> bool) -> bool {
        self.kept.iter().all(is)
    }

    /// A single frame is a picture and need not move.
    pub fn frozen(&self) -> bool {
        let mut pairs = self.kept.iter().zip(self.kept.iter().skip(1)).peekable();
        pairs.peek().is_some() && (pairs.all(|(a, b)| a.difference(b) < STILL) || self.only_jumps())
    }

    /// An encoder that aims at a quality gives a still picture other pixels at each keyframe, and none in between: all
    /// the way that it goes, it goes in a few steps. What moves goes its way in most of them.
    fn only_jumps(&self) -> bool {
        if self.steps.len() < JUMPS {
            return false;
        }
        let mut steps = self.steps.clone();
        steps.sort_by(f64::total_cmp);
        steps.truncate(steps.len() - steps.len().div_ceil(JUMPS));
        // Number of steps between two checked frames.
        let between = self.steps.len() as f64 / (LOOKS - 1) as f64;
        average(steps.into_iter()) * between < STILL
    }
}

fn average(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

/// Decodes the whole stream; as many frames must come out as were asked for.
pub fn decode(index: &Index<'_>, expected: &Expectation) -> Result<Looks, GateError> {
    // Frames may come later than their data: those that are shown out of order wait in the decoder.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    let failed = |frame| move |source| GateError::Decode { frame, source };
    let mut decoder =
        Decoder::with_api_config(OpenH264API::from_source(), config).map_err(failed(0))?;
    let mut viewer = Viewer {
        expected: *expected,
        seen: 0,
        looks: Looks {
            kept: Vec::new(),
            steps: Vec::new(),
        },
        previous: None,
    };
    let mut unit = annex_b(index.parameters.iter().copied());
    for (frame, sample) in index.samples.iter().enumerate() {
        unit.extend(annex_b(units(sample, index.prefix)?.into_iter()));
        if let Some(picture) = decoder.decode(&unit).map_err(failed(frame))? {
            viewer.see(&picture)?;
        }
        unit.clear();
    }
    for picture in decoder.flush_remaining().map_err(failed(viewer.seen))? {
        viewer.see(&picture)?;
    }
    if viewer.seen != expected.frames as usize {
        return Err(GateError::Decoded {
            decoded: viewer.seen,
            expected: expected.frames,
        });
    }
    Ok(viewer.looks)
}

struct Viewer {
    expected: Expectation,
    seen: usize,
    looks: Looks,
    previous: Option<FrameLook>,
}

impl Viewer {
    fn see(&mut self, picture: &DecodedYUV<'_>) -> Result<(), GateError> {
        let (width, height) = picture.dimensions();
        let number = |side| u32::try_from(side).unwrap_or(u32::MAX);
        self.expected.check_size(number(width), number(height))?;
        let last = (self.expected.frames as usize).saturating_sub(1);
        let look = FrameLook::at(picture);
        if let Some(previous) = &self.previous {
            self.looks.steps.push(look.difference(previous));
        }
        if self.seen * (LOOKS - 1) >= self.looks.kept.len() * last {
            self.looks.kept.push(look.clone());
        }
        self.previous = Some(look);
        self.seen += 1;
        Ok(())
    }
}

/// The NAL units of a sample.
fn units(mut sample: &[u8], prefix: usize) -> Result<Vec<&[u8]>, GateError> {
    const CUT: GateError = GateError::Mp4("a frame is cut short");
    let mut units = Vec::new();
    while !sample.is_empty() {
        let (length, rest) = sample.split_at_checked(prefix).ok_or(CUT)?;
        let length = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (unit, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        units.push(unit);
        sample = rest;
    }
    Ok(units)
}

fn annex_b<'a>(units: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in units {
        bytes.extend_from_slice(&[0, 0, 0, 1]);
        bytes.extend_from_slice(unit);
    }
    bytes
}
