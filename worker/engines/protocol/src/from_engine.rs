//! What an engine says to its worker.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::FEATURE_FAST;

/// Engine → worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromEngine {
    /// First line of all; or an `error` without an id, of an engine that cannot render here and ends.
    Hello(Box<EngineHello>),
    /// The model is loaded.
    Ready {
        model: String,
        #[serde(default)]
        profile: Option<String>,
        load_s: f64,
        /// Bytes of accelerator memory in use.
        #[serde(default)]
        vram: Option<u64>,
    },
    /// The render begins, at `start_step`.
    Accepted {
        id: String,
        start_step: u32,
        resume: ResumeKind,
    },
    /// Without an id it belongs to `load`.
    Phase {
        #[serde(default)]
        id: Option<String>,
        name: Phase,
    },
    Step(StepInfo),
    Checkpoint(CheckpointInfo),
    Embeddings(EmbeddingsInfo),
    /// A small JPEG of the unfinished video, in the work directory; after the `step` that it shows.
    Preview {
        id: String,
        path: PathBuf,
    },
    Finished(FinishedInfo),
    Error(ErrorReport),
    Pong {
        n: u64,
    },
    /// The last line before a wanted exit.
    Bye,
    /// A type that this version does not know; the worker passes over it.
    #[serde(other)]
    Unknown,
}

/// Who the engine is and what it can do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineHello {
    pub proto: [u32; 2],
    pub name: String,
    pub version: String,
    pub models: Vec<String>,
    #[serde(default)]
    pub profiles: Vec<String>,
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub features: Vec<String>,
    /// How its checkpoints are written. A worker that knows the format looks into one before it hands it over.
    #[serde(default)]
    pub checkpoint_format: Option<String>,
    /// It takes and gives encoded text. The word stands for all that decides the bits of it beside the pack and the
    /// prompts: device, driver, versions of libraries. Two engines with the same word may share what they encode.
    #[serde(default)]
    pub embeddings: Option<String>,
}

impl EngineHello {
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }

    /// Whether it has distilled weights for this model, or for all.
    #[must_use]
    pub fn renders_fast(&self, model: &str) -> bool {
        let of_model = |name: &str| {
            name.strip_prefix(FEATURE_FAST)
                .and_then(|rest| rest.strip_prefix(':'))
                == Some(model)
        };
        self.has(FEATURE_FAST) || self.features.iter().any(|name| of_model(name))
    }
}

/// The largest render that the engine takes; absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    #[serde(default)]
    pub max_pixels: Option<u32>,
    #[serde(default)]
    pub max_frames: Option<u32>,
    #[serde(default)]
    pub max_steps: Option<u32>,
}

/// How faithfully a checkpoint was taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResumeKind {
    /// From step 0.
    None,
    /// The result is the uninterrupted one, byte for byte.
    Exact,
    /// Other hardware or kernels than those that wrote the checkpoint: close, not equal.
    Approximate,
}

/// What the engine is busy with; deadlines depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Load,
    EncodeText,
    EncodeImage,
    Denoise,
    Decode,
    Mux,
    /// A phase of a newer engine.
    #[serde(other)]
    Other,
}

/// One denoising step is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepInfo {
    pub id: String,
    pub done: u32,
    pub total: u32,
    /// Which of a model's experts ran.
    #[serde(default)]
    pub expert: Option<String>,
    pub seconds: f64,
    #[serde(default)]
    pub eta_s: Option<f64>,
    /// Bytes.
    #[serde(default)]
    pub vram_peak: Option<u64>,
}

/// A checkpoint is complete on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    pub id: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: String,
    /// The step that a resume begins with; the total when only decoding is left.
    pub next_step: u32,
    pub phase: Phase,
}

/// The text is encoded, in a safetensors file in the work directory. Said at most once a render, and only by an engine
/// that encoded it itself.
///
/// Tensors `embeds.prompt` and `embeds.negative`; the metadata has the key [`EMBEDDINGS_FORMAT`](crate::EMBEDDINGS_FORMAT),
/// whose value is JSON: `text_encoder` (hashes of what encoded it), `prompt_sha256`, `negative_sha256`, `class`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingsInfo {
    pub id: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: String,
}

/// The video is complete on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedInfo {
    pub id: String,
    pub video: PathBuf,
    /// Its first frame, as JPEG.
    #[serde(default)]
    pub poster: Option<PathBuf>,
    /// What the engine knows about how it rendered: name, version, device, resolved parameters.
    #[serde(default)]
    pub meta: Value,
    pub bytes: u64,
    pub sha256: String,
    /// Seconds by phase.
    #[serde(default)]
    pub timings: BTreeMap<String, f64>,
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The render it ended; `None` for `load` and for what belongs to no render.
    #[serde(default)]
    pub id: Option<String>,
    pub kind: ErrorKind,
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The engine cannot go on and must be started again.
    #[serde(default)]
    pub restart: bool,
    #[serde(default)]
    pub context: Value,
}

/// What a failure means for the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The task itself is wrong: it ends, trying again is useless.
    Invalid,
    /// Trying again may help.
    Retryable,
    /// Memory ran out: a smaller profile or a larger machine may do.
    Oom,
    /// Weights are missing or broken here: this worker stops taking the model.
    Model,
    /// The accelerator failed.
    Device,
    /// The checkpoint is unusable: an older one, or step 0.
    Checkpoint,
    /// As the worker asked.
    Cancelled,
    /// A bug of the engine.
    Internal,
    /// One side broke the contract.
    Protocol,
}

impl ErrorKind {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Retryable => "retryable",
            Self::Oom => "oom",
            Self::Model => "model",
            Self::Device => "device",
            Self::Checkpoint => "checkpoint",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> FromEngine {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn unknown_types_fields_and_phases_are_tolerated() {
        assert_eq!(parse(r#"{"type":"aurora","x":[1]}"#), FromEngine::Unknown);
        assert_eq!(
            parse(r#"{"type":"pong","n":3,"later":true}"#),
            FromEngine::Pong { n: 3 }
        );
        assert_eq!(
            parse(r#"{"type":"phase","id":"t","name":"upscale"}"#),
            FromEngine::Phase {
                id: Some("t".into()),
                name: Phase::Other
            }
        );
    }

    #[test]
    fn distilled_weights_are_those_of_a_model_or_of_all() {
        let mut hello = EngineHello::default();
        assert!(!hello.renders_fast("ti2v-5B"));
        hello.features = vec!["fast:t2v-A14B".into(), "faster:ti2v-5B".into()];
        assert!(hello.renders_fast("t2v-A14B"));
        assert!(!hello.renders_fast("i2v-A14B") && !hello.renders_fast("ti2v-5B"));
        hello.features.push(FEATURE_FAST.into());
        assert!(hello.renders_fast("ti2v-5B"));
    }

    #[test]
    fn an_unknown_error_kind_is_refused_because_it_decides_what_the_queue_does() {
        let json = r#"{"type":"error","kind":"odd","code":"c","message":"m"}"#;
        assert!(serde_json::from_str::<FromEngine>(json).is_err());
    }

    #[test]
    fn words_on_the_wire_and_words_in_logs_are_the_same() {
        for kind in [ErrorKind::Oom, ErrorKind::Cancelled, ErrorKind::Checkpoint] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
