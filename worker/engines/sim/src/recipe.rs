//! A task, checked and made into numbers.

use std::fs;

use sha2::{Digest, Sha256};
use spotreel_engine_protocol::{ErrorKind, ErrorReport, Limits, LoraFile, RenderTask};

pub const MODELS: [&str; 3] = ["ti2v-5B", "t2v-A14B", "i2v-A14B"];

/// H.264 level 5.2 as openh264 encodes it, and twice Wan's longest video: enough for tests of size limits.
const MAX_PIXELS: u32 = 3840 * 2160;
const MAX_FRAMES: u32 = 241;
const MAX_STEPS: u32 = 1000;
/// Pixels of a side for one latent, as in Wan's VAE 2.1.
pub const CELL: u32 = 8;
/// Frames for one latent after the first, as in both of Wan's VAEs.
pub const FRAMES_PER_LATENT: u32 = 4;
/// Raise it when the same task gives another picture: old checkpoints are then refused.
const PICTURE_VERSION: u32 = 1;

/// Everything that decides the file.
pub struct Recipe {
    pub task: RenderTask,
    /// Seeds the picture.
    pub key: [u8; 32],
    /// Names the task, sizes and step count included: a checkpoint of another one is refused.
    pub task_hash: [u8; 32],
    pub shape: Shape,
}

/// Extents of the latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub times: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Shape {
    /// Y, Cb and Cr.
    pub const CHANNELS: usize = 3;

    pub fn plane(self) -> usize {
        self.rows * self.columns
    }

    pub fn volume(self) -> usize {
        Self::CHANNELS * self.times * self.plane()
    }
}

pub fn limits() -> Limits {
    Limits {
        max_pixels: Some(MAX_PIXELS),
        max_frames: Some(MAX_FRAMES),
        max_steps: Some(MAX_STEPS),
    }
}

impl Recipe {
    /// Refuses what it cannot render exactly as asked; nothing is rounded.
    pub fn new(task: RenderTask) -> Result<Self, ErrorReport> {
        check(&task)?;
        let image = image_hash(&task)?;
        let mut key = Sha256::new();
        for part in [
            &PICTURE_VERSION.to_le_bytes()[..],
            &task.seed.to_le_bytes(),
            &image,
            // Lengths and presence keep ("a", "b") apart from ("ab", ""), and an empty text from an absent one.
            &task.prompt.len().to_le_bytes(),
            task.prompt.as_bytes(),
            &[u8::from(task.negative_prompt.is_some())],
            task.negative_prompt.as_deref().unwrap_or("").as_bytes(),
        ] {
            key.update(part);
        }
        for lora in &task.loras {
            key.update(lora_hash(lora)?);
        }
        let key: [u8; 32] = key.finalize().into();
        let mut hash = Sha256::new_with_prefix(key);
        hash.update(task.model.as_bytes());
        for number in [task.width, task.height, task.frames, task.fps, task.steps] {
            hash.update(number.to_le_bytes());
        }
        let guidance_2 = task.guidance_2.unwrap_or(task.guidance);
        for number in [task.guidance, guidance_2, task.shift] {
            hash.update(number.to_le_bytes());
        }
        let shape = Shape {
            times: ((task.frames - 1) / FRAMES_PER_LATENT + 1) as usize,
            rows: (task.height / CELL) as usize,
            columns: (task.width / CELL) as usize,
        };
        Ok(Self {
            key,
            task_hash: hash.finalize().into(),
            shape,
            task,
        })
    }
}

fn check(task: &RenderTask) -> Result<(), ErrorReport> {
    let wants_image = task.model == "i2v-A14B";
    let takes_image = wants_image || task.model == "ti2v-5B";
    let positive = |x: f64| x.is_finite() && x > 0.0;
    let rules = [
        (!task.prompt.is_empty(), "prompt", "the prompt is empty"),
        (
            task.width.is_multiple_of(16) && task.height.is_multiple_of(16),
            "size",
            "width and height must be multiples of 16",
        ),
        (
            task.width >= 64
                && task.height >= 64
                && task.width.saturating_mul(task.height) <= MAX_PIXELS,
            "size",
            "the size is out of range",
        ),
        (
            (1..=MAX_FRAMES).contains(&task.frames)
                && (task.frames - 1).is_multiple_of(FRAMES_PER_LATENT),
            "frames",
            "frames must be 4n+1, at most 241",
        ),
        ((1..=60).contains(&task.fps), "fps", "fps must be 1 to 60"),
        (
            (1..=MAX_STEPS).contains(&task.steps),
            "steps",
            "steps must be 1 to 1000",
        ),
        (
            positive(task.guidance) && task.guidance_2.is_none_or(positive),
            "guidance",
            "guidance must be above 0",
        ),
        (positive(task.shift), "shift", "shift must be above 0"),
        (
            task.image.is_some() || !wants_image,
            "image",
            "this model starts from an image",
        ),
        (
            task.image.is_none() || takes_image,
            "image",
            "this model takes no image",
        ),
    ];
    match rules.into_iter().find(|(ok, _, _)| !ok) {
        Some((_, code, message)) => Err(report(ErrorKind::Invalid, code, message)),
        None => Ok(()),
    }
}

fn image_hash(task: &RenderTask) -> Result<[u8; 32], ErrorReport> {
    let Some(path) = &task.image else {
        return Ok([0; 32]);
    };
    // Retryable: the worker fetched the file, so a missing one says nothing about the task.
    let bytes = fs::read(path).map_err(|error| {
        let message = format!("cannot read the image {}: {error}", path.display());
        report(ErrorKind::Retryable, "image_unreadable", &message)
    })?;
    Ok(Sha256::digest(&bytes).into())
}

/// It has no weights to change: the file's bytes, what is asked of them and the expert change the picture.
fn lora_hash(lora: &LoraFile) -> Result<[u8; 32], ErrorReport> {
    let refuse = |what: &str| {
        let message = format!("the file of the LoRA {:?} {what}", lora.name);
        report(ErrorKind::Retryable, "lora_unreadable", &message)
    };
    let bytes = fs::read(&lora.path).map_err(|error| refuse(&format!("is unreadable: {error}")))?;
    let found = Sha256::digest(&bytes);
    if hex::encode(found) != lora.sha256 {
        return Err(refuse("is not what it should be"));
    }
    let mut hash = Sha256::new_with_prefix(found);
    hash.update(lora.strength.to_le_bytes());
    hash.update(lora.expert.as_deref().unwrap_or("").as_bytes());
    Ok(hash.finalize().into())
}

/// A report that the session completes with the render's id.
pub fn report(kind: ErrorKind, code: &str, message: &str) -> ErrorReport {
    ErrorReport {
        id: None,
        kind,
        code: code.to_owned(),
        message: message.to_owned(),
        restart: false,
        context: serde_json::Value::Null,
    }
}
