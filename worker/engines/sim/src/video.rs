//! Frames to an MP4 that plays in browsers while it is still arriving.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use muxide::api::{Muxer, MuxerBuilder, VideoCodec};
use openh264::encoder::{
    Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, Profile, QpRange,
    RateControlMode, VuiConfig,
};
use openh264::formats::YUVSlices;
use openh264::{OpenH264API, Timestamp};
use spotreel_engine_protocol::RenderTask;

use crate::picture::Frame;

/// Frames that wait for the encoder while the next one is drawn.
const AHEAD: usize = 2;

/// Constant quality. Rate control would drop frames silently, and make bytes depend on more than the picture.
const QUANTISER: QpRange = QpRange::new(24, 24);

/// Draws and encodes on two threads. `draw` gives `None` to stop; then the file is of no use and `false` comes back.
pub fn write(
    path: &Path,
    task: &RenderTask,
    draw: impl Fn(u32) -> Option<Frame> + Sync,
) -> anyhow::Result<bool> {
    let mut sink = Sink::new(path, task)?;
    let (to_encoder, frames) = mpsc::sync_channel(AHEAD);
    let drawn = thread::scope(|scope| {
        let artist = scope.spawn(|| {
            let to_encoder = to_encoder;
            (0..task.frames).all(|index| {
                draw(index).is_some_and(|frame| to_encoder.send((index, frame)).is_ok())
            })
        });
        for (index, frame) in frames {
            sink.frame(index, &frame)?;
        }
        artist.join().map_err(|_| anyhow!("drawing panicked"))
    })?;
    sink.muxer.finish().context("cannot finish the MP4")?;
    let file = File::open(path)?;
    file.sync_all().context("cannot sync the video")?;
    Ok(drawn)
}

struct Sink {
    encoder: Encoder,
    muxer: Muxer<BufWriter<File>>,
    fps: u32,
}

impl Sink {
    fn new(path: &Path, task: &RenderTask) -> anyhow::Result<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "60 at most")]
        let rate = FrameRate::from_hz(f64::from(task.fps) as f32);
        let config = EncoderConfig::new()
            .rate_control_mode(RateControlMode::Off)
            .qp(QUANTISER)
            .skip_frames(false)
            .num_threads(1)
            .scene_change_detect(false)
            .adaptive_quantization(false)
            .background_detection(false)
            .max_frame_rate(rate)
            // A key frame every two seconds: seeking stays quick.
            .intra_frame_period(IntraFramePeriod::from_num_frames(2 * task.fps))
            .profile(Profile::Main)
            .vui(VuiConfig::bt709());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config)
            .context("cannot start the encoder")?;
        let file = BufWriter::new(File::create(path).context("cannot create the video")?);
        let muxer = MuxerBuilder::new(file)
            .video(
                VideoCodec::H264,
                task.width,
                task.height,
                f64::from(task.fps),
            )
            .with_fast_start(true)
            .build()
            .context("cannot start the MP4")?;
        Ok(Self {
            encoder,
            muxer,
            fps: task.fps,
        })
    }

    fn frame(&mut self, index: u32, frame: &Frame) -> anyhow::Result<()> {
        let [u, v] = &frame.chroma;
        let half = frame.width / 2;
        let yuv = YUVSlices::new(
            (&frame.luma, u, v),
            (frame.width, frame.height),
            (frame.width, half, half),
        );
        let seconds = f64::from(index) / f64::from(self.fps);
        let stamp = Duration::from_millis(u64::from(index) * 1000 / u64::from(self.fps));
        let encoded = self
            .encoder
            .encode_at(&yuv, timestamp(stamp))
            .with_context(|| format!("frame {index} cannot be encoded"))?;
        let key = matches!(encoded.frame_type(), FrameType::IDR | FrameType::I);
        self.muxer
            .write_video(seconds, &encoded.to_vec(), key)
            .map_err(|error| anyhow!("frame {index} cannot be muxed: {error}"))
    }
}

fn timestamp(since_start: Duration) -> Timestamp {
    Timestamp::from_millis(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX))
}
