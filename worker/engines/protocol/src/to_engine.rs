//! What a worker says to an engine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Worker → engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEngine {
    /// First line of all.
    Hello { proto: [u32; 2] },
    /// Answered by `ready` or by `error` without an id.
    Load {
        model: String,
        #[serde(default)]
        profile: Option<String>,
        /// The directory of packs, this model's under its name; absent: the one that the engine was started with.
        #[serde(default)]
        pack_dir: Option<PathBuf>,
        /// Whoever put the files there has held them against their hashes: measuring them will do.
        #[serde(default)]
        verified: bool,
        /// Files of the pack that are still on their way, relative to it. Each appears under its own name whole and
        /// verified, or the worker ends the render. The engine loads without them. When it first needs one it says
        /// `phase{name: "load"}` and waits, answering a cancel; then it says which phase goes on.
        #[serde(default)]
        arriving: Vec<PathBuf>,
    },
    /// Answered by `accepted`, then progress, then exactly one `finished` or `error`.
    Render(Box<RenderRequest>),
    /// Answered by `checkpoint` within the running step, from a copy of the last whole step. Said too late, it is
    /// ignored: the end of the render is the answer.
    CheckpointNow { id: String },
    /// Answered by `error{kind: "cancelled"}`, unless the render ended first.
    Cancel { id: String, reason: String },
    /// Gives the model's memory back.
    Unload,
    /// Answered by `pong` with the same number.
    Ping { n: u64 },
    /// Answered by `bye` and the end of the process.
    Shutdown { grace_s: f64 },
    /// A type that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One attempt at one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenderRequest {
    pub id: String,
    /// Counts from 1.
    pub attempt: u32,
    pub task: RenderTask,
    /// Where checkpoints go. Absolute, exists, belongs to this render alone.
    pub work_dir: PathBuf,
    /// Where the video goes. Absolute, exists.
    pub out_dir: PathBuf,
    #[serde(default)]
    pub resume: Option<ResumeFrom>,
    /// The encoded text of an earlier task with the same prompts, as that engine's `embeddings` said it. A file that
    /// does not match is passed over: the engine encodes by itself.
    #[serde(default)]
    pub embeddings: Option<EmbeddingsFile>,
    pub checkpoint: CheckpointPolicy,
    /// Pictures of the unfinished video; absent: none are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewPolicy>,
}

/// What to render. Defaults are filled in by whoever admitted the task: an engine never guesses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenderTask {
    pub model: String,
    pub prompt: String,
    /// `None` is the model's own negative prompt; an empty text is really empty.
    #[serde(default)]
    pub negative_prompt: Option<String>,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub fps: u32,
    /// The tier that the numbers below come from, where the task names one. `fast` is sent only to an engine with
    /// [`FEATURE_FAST`](crate::FEATURE_FAST).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    pub steps: u32,
    /// For models with two experts: the high-noise expert's.
    pub guidance: f64,
    /// The low-noise expert's.
    #[serde(default)]
    pub guidance_2: Option<f64>,
    /// Flow-matching timestep shift.
    pub shift: f64,
    pub seed: u64,
    /// The first frame, for models that start from an image.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Changes of the model's weights, in the order in which they are added. Sent only to an engine with
    /// [`FEATURE_LORAS`](crate::FEATURE_LORAS).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraFile>,
}

/// A safetensors file of a LoRA that the task names, and what its bytes must hash to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraFile {
    /// The task's name for it, for messages.
    pub name: String,
    pub path: PathBuf,
    pub sha256: String,
    pub strength: f64,
    /// `high` or `low`: the one expert that it changes; absent: all.
    #[serde(default)]
    pub expert: Option<String>,
}

/// A checkpoint to go on from, and what its bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeFrom {
    pub path: PathBuf,
    pub sha256: String,
}

/// Encoded text, and what its bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingsFile {
    pub path: PathBuf,
    pub sha256: String,
}

/// How often the engine shows the unfinished video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewPolicy {
    /// After every this many steps, but the last.
    pub every_steps: u32,
}

/// How often the engine writes a checkpoint unasked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CheckpointPolicy {
    /// Number of steps between previews; 0 is never.
    pub every_steps: u32,
    /// But not sooner than this after the one before.
    pub min_interval_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_of_an_older_worker_brings_everything_at_once() {
        let load = serde_json::from_str(r#"{"type":"load","model":"ti2v-5B"}"#).unwrap();
        let ToEngine::Load {
            verified, arriving, ..
        } = load
        else {
            panic!("{load:?}");
        };
        assert!(!verified && arriving.is_empty());
    }
}
