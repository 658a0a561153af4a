//! The output gate: checks that a video plays and shows something before the task succeeds.
//!
//! It believes nobody: neither the engine's word nor the container's tables. The whole stream is decoded, because an
//! encoder that drops frames under pressure writes a perfectly well-formed file. What it checks is what was asked
//! for, so that it passes any renderer's honest work and judges no taste.

mod error;
mod expectation;
mod look;
mod mp4;

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

pub use error::GateError;
pub use expectation::Expectation;
use look::{FrameLook, Looks};

/// Larger than any video a task can ask for at the highest quality; a bound on memory.
const MAX_BYTES: u64 = 1 << 30;

/// What the file really is.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoFacts {
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub fps: u32,
    pub duration_s: f64,
    pub bytes: u64,
    pub sha256: String,
}

/// Checks a video against what was asked for. Blocking, and as long as decoding takes: seconds.
///
/// # Errors
/// When the video is not what was asked for; it never panics, whatever the bytes are.
pub fn check(path: &Path, expected: &Expectation) -> Result<VideoFacts, GateError> {
    let bytes = fs::metadata(path).map_err(GateError::Read)?.len();
    if bytes > MAX_BYTES {
        return Err(GateError::TooLarge { bytes });
    }
    let file = fs::read(path).map_err(GateError::Read)?;
    check_bytes(&file, expected)
}

/// The same on bytes.
///
/// # Errors
/// As [`check`], except for reading.
pub fn check_bytes(file: &[u8], expected: &Expectation) -> Result<VideoFacts, GateError> {
    let index = mp4::read(file)?;
    expected.check_size(index.width, index.height)?;
    if index.samples.len() != expected.frames as usize {
        return Err(GateError::Frames {
            frames: index.samples.len(),
            expected: expected.frames,
        });
    }
    check_rate(&index, expected)?;
    let looks = look::decode(&index, expected)?;
    judge(&looks)?;
    Ok(VideoFacts {
        width: expected.width,
        height: expected.height,
        frames: expected.frames,
        fps: expected.fps,
        duration_s: f64::from(expected.frames) / f64::from(expected.fps),
        bytes: file.len() as u64,
        sha256: hex::encode(Sha256::digest(file)),
    })
}

/// The last frame's duration is nobody's business: muxers guess it.
fn check_rate(index: &mp4::Index<'_>, expected: &Expectation) -> Result<(), GateError> {
    let (_, all_but_last) = index.durations.split_last().unwrap_or((&0, &[]));
    let even = |duration: &u32| {
        u64::from(*duration) * u64::from(expected.fps) == u64::from(index.timescale)
    };
    if expected.fps > 0 && all_but_last.iter().all(even) {
        return Ok(());
    }
    Err(GateError::FrameRate {
        expected: expected.fps,
    })
}

fn judge(looks: &Looks) -> Result<(), GateError> {
    if looks.all(FrameLook::is_black) {
        return Err(GateError::Black);
    }
    if looks.all(FrameLook::is_flat) {
        return Err(GateError::Flat);
    }
    if looks.frozen() {
        return Err(GateError::Frozen);
    }
    Ok(())
}
