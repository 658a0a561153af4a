//! Why a video is refused.

use std::io;

/// Why a video is refused.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("the video cannot be read")]
    Read(#[source] io::Error),
    #[error("the video has {bytes} bytes, more than any task can ask for")]
    TooLarge { bytes: u64 },
    #[error("not a playable MP4: {0}")]
    Mp4(&'static str),
    #[error(
        "the index is behind the data: browsers would download the whole file before they play it"
    )]
    NotFaststart,
    #[error("the codec is {0}, not H.264")]
    Codec(String),
    #[error("the video is {width}x{height}, but {expected_width}x{expected_height} was requested")]
    Size {
        width: u32,
        height: u32,
        expected_width: u32,
        expected_height: u32,
    },
    #[error("the index has {frames} frames, but {expected} were requested")]
    Frames { frames: usize, expected: u32 },
    #[error("the frame rate is not {expected} frames per second")]
    FrameRate { expected: u32 },
    #[error("frame {frame} cannot be decoded")]
    Decode {
        frame: usize,
        #[source]
        source: openh264::Error,
    },
    #[error("{decoded} frames were decoded, but {expected} were requested")]
    Decoded { decoded: usize, expected: u32 },
    #[error("the video is black")]
    Black,
    #[error("the video shows one flat colour")]
    Flat,
    #[error("the video does not move")]
    Frozen,
}
