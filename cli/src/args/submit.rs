//! Tasks, before they exist: what they would cost, and how to submit them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use spotreel_api::LoraRequest;
use spotreel_domain::model::Expert;
use spotreel_domain::{Priority, Quality};

use super::values::{ahead, finite, pair};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel quote --tasks 100
  spotreel quote --model t2v-A14B --size 1280x720 --quality fast --json")]
pub struct QuoteArgs {
    /// Model: ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long, default_value = "ti2v-5B")]
    pub model: String,
    /// Size of the video in pixels, such as 1280x704 [default: the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub size: Option<String>,
    /// Number of frames, one more than a multiple of 4, such as 121 [default: the model's]
    #[arg(long, value_name = "N")]
    pub frames: Option<u32>,
    /// Recipe: fast (4 steps, needs distilled weights), standard (Wan2.2's own steps) or best (60 steps)
    #[arg(long, value_enum, conflicts_with = "steps")]
    pub quality: Option<QualityArg>,
    /// Number of denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Number of tasks
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tasks: u64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel submit --prompt 'a red fox in the snow'
  spotreel submit --model i2v-A14B --image fox.png --prompt 'the fox runs' --seed 7 --wait
  spotreel submit -f tasks.jsonl --json
  echo '{\"model\":\"ti2v-5B\",\"prompt\":\"a lighthouse\"}' | spotreel submit -f -

Only --prompt is required. Submitting twice with the same --id or --idempotency-key creates one task.

A file holds one JSON object per line, or one JSON list. Its fields are those of the HTTP API, with two
additions: \"image\" may be the path of a picture, and \"expires_in\" is a duration such as \"2h\". All lines are
checked before any task is submitted. A line without id and idempotency_key gets a key that is made from its
text, so submitting the same line twice creates one task. To render the file again, give another
--idempotency-key. --idempotency-key, --label and --priority apply to each line that does not set its own.
A picture that is too large for a NATS message is sent over HTTP: set SPOTREEL_API and, if the API requires
keys, SPOTREEL_API_KEY.")]
pub struct SubmitArgs {
    /// Catches a prompt without its flag
    #[arg(hide = true, value_parser = stray)]
    pub stray: Vec<String>,
    /// Model: ti2v-5B (image optional), t2v-A14B (no image) or i2v-A14B (image required)
    #[arg(long, default_value = "ti2v-5B")]
    pub model: String,
    /// Text that describes the video
    #[arg(long, required_unless_present = "file")]
    pub prompt: Option<String>,
    /// Text that describes what the video must not show; '' for none [default: the model's]
    #[arg(long)]
    pub negative_prompt: Option<String>,
    /// Size of the video in pixels, such as 1280x704; for i2v-A14B also 480p or 720p, which keep the image's
    /// shape [default: chosen to fit the image, else the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub size: Option<String>,
    /// Number of frames, one more than a multiple of 4, such as 121 [default: the model's]
    #[arg(long, value_name = "N")]
    pub frames: Option<u32>,
    /// Recipe that sets steps, guidance and shift: fast (4 steps, needs distilled weights), standard (Wan2.2's
    /// own) or best (60 steps)
    #[arg(long, value_enum, conflicts_with_all = ["steps", "guidance", "guidance_high_noise", "shift"])]
    pub quality: Option<QualityArg>,
    /// Number of denoising steps [default: the model's]
    #[arg(long, value_name = "N")]
    pub steps: Option<u32>,
    /// Guidance scale: how closely the video follows the prompt [default: the model's]
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    pub guidance: Option<f64>,
    /// Guidance scale of the high-noise expert (A14B models only) [default: the model's]
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    pub guidance_high_noise: Option<f64>,
    /// Shift of the timesteps [default: the model's]
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    pub shift: Option<f64>,
    /// Random seed; the same seed gives the same video [default: drawn at random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// First frame: a file of at most 20 MB, or a key in the bucket that starts with images/
    #[arg(long, value_name = "FILE|KEY")]
    pub image: Option<String>,
    /// LoRA in the bucket, such as fox, fox=0.8 or fox=0.8:high; at most three
    #[arg(long = "lora", value_name = "NAME[=STRENGTH][:EXPERT]", value_parser = lora)]
    pub loras: Vec<LoraRequest>,
    /// Publish small pictures of the unfinished video during the render
    #[arg(long)]
    pub preview: bool,
    /// Priority in the queue [default: normal]
    #[arg(long, value_enum)]
    pub priority: Option<PriorityArg>,
    /// Id of the task [default: generated]
    #[arg(long, conflicts_with = "idempotency_key")]
    pub id: Option<String>,
    /// Text that identifies this submission; with a file, the prefix of each line's key
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Label of the task; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// Time after which the task expires if it has not succeeded, such as 30min or 2h [default: never]
    #[arg(long, value_name = "DURATION", value_parser = ahead)]
    pub expires_in: Option<Duration>,
    /// URL to which the event of the task's end is sent, signed
    #[arg(long, value_name = "URL")]
    pub callback_url: Option<String>,
    /// File with one JSON task per line, or a JSON list; '-' reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = TASK_FLAGS)]
    pub file: Option<PathBuf>,
    /// Follow the tasks until they end; exit with 1 if one ends without a video
    #[arg(long)]
    pub wait: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// Flags of one task: each line of a file sets them itself.
pub(super) const TASK_FLAGS: [&str; 16] = [
    "prompt",
    "negative_prompt",
    "size",
    "frames",
    "quality",
    "steps",
    "guidance",
    "guidance_high_noise",
    "shift",
    "seed",
    "image",
    "loras",
    "preview",
    "id",
    "expires_in",
    "callback_url",
];

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PriorityArg {
    High,
    Normal,
}

impl From<PriorityArg> for Priority {
    fn from(priority: PriorityArg) -> Self {
        match priority {
            PriorityArg::High => Self::High,
            PriorityArg::Normal => Self::Normal,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QualityArg {
    Fast,
    Standard,
    Best,
}

impl From<QualityArg> for Quality {
    fn from(tier: QualityArg) -> Self {
        match tier {
            QualityArg::Fast => Self::Fast,
            QualityArg::Standard => Self::Standard,
            QualityArg::Best => Self::Best,
        }
    }
}

/// A LoRA as `--lora` names it.
pub fn lora(text: &str) -> Result<LoraRequest, String> {
    let (rest, expert) = match text.rsplit_once(':') {
        Some((rest, expert)) => {
            let expert = Expert::parse(expert).ok_or("EXPERT after ':' must be high or low")?;
            (rest, Some(expert))
        }
        None => (text, None),
    };
    let (name, strength) = match rest.split_once('=') {
        Some((name, strength)) => (name, finite(strength)?),
        None => (rest, 1.0),
    };
    Ok(LoraRequest {
        name: name.to_owned(),
        strength,
        expert,
    })
}

fn stray(text: &str) -> Result<String, String> {
    Err(format!("write a prompt as --prompt {text:?}"))
}
