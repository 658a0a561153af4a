//! The contract between the worker and an engine, the child process that turns a prompt into a video.
//!
//! One JSON object a line over a Unix socketpair whose child end is the engine's fd 0; stdout and stderr are logs and
//! are never parsed, so a library that prints cannot break the conversation. Bulk travels as files in directories
//! that the worker names. The first line both ways is `hello` with the range of versions spoken; the highest common
//! one wins, and an engine without a common one exits with [`EXIT_NO_COMMON_VERSION`]. An engine says `hello` only once
//! it has seen its accelerator compute; one that cannot use it says `error{kind: "device"}` in its place and exits with
//! [`EXIT_DEVICE`].
//!
//! Unknown fields are ignored. A message of unknown type is ignored by the worker and answered by the engine with
//! `error{kind: "protocol"}`. After `finished` or `error` nothing more is said about that render.
//!
//! This crate is types and bytes only: no I/O, so an async worker and a blocking engine share it.

mod from_engine;
mod line;
mod to_engine;

pub use from_engine::{
    CheckpointInfo, EmbeddingsInfo, EngineHello, ErrorKind, ErrorReport, FinishedInfo, FromEngine,
    Limits, Phase, ResumeKind, StepInfo,
};
pub use line::{LineBuffer, LineError, MAX_LINE, decode, encode};
pub use to_engine::{
    CheckpointPolicy, EmbeddingsFile, LoraFile, PreviewPolicy, RenderRequest, RenderTask,
    ResumeFrom, ToEngine,
};

/// The versions of the contract that this crate speaks, lowest and highest.
pub const PROTO: [u32; 2] = [1, 1];

/// Exit status of an engine that shares no version with its worker (EX_CONFIG of sysexits.h).
pub const EXIT_NO_COMMON_VERSION: i32 = 78;

/// Exit status of an engine whose accelerator failed: the worker restarts it, and gives the machine up if that repeats.
pub const EXIT_DEVICE: i32 = 86;

/// The feature an engine names in its `hello` when fault directives in prompts are obeyed.
pub const FEATURE_FAULTS: &str = "faults";

/// The feature an engine names in its `hello` when it renders `quality: "fast"`: with distilled weights, where the pack
/// has them. Without them it ends such a render with `error{kind: "invalid"}`, never with four steps of the others.
/// `fast:<model>` says it of one model.
pub const FEATURE_FAST: &str = "fast";

/// The feature an engine names in its `hello` when it merges the LoRAs that a task names.
pub const FEATURE_LORAS: &str = "loras";

/// The format of checkpoints that a worker can look into: one safetensors file, with its state as JSON under this key of
/// the metadata.
pub const CHECKPOINT_FORMAT: &str = "wanckpt/1";

/// The format of encoded text.
pub const EMBEDDINGS_FORMAT: &str = "wanembeds/1";

/// The code of an `oom` that is known before anything was tried: the task does not fit this device. `context` has
/// `needed_bytes`, of accelerator memory.
pub const CODE_DOES_NOT_FIT: &str = "does_not_fit";

/// The highest version that both ranges contain.
#[must_use]
pub fn negotiate(ours: [u32; 2], theirs: [u32; 2]) -> Option<u32> {
    let highest = ours[1].min(theirs[1]);
    (highest >= ours[0].max(theirs[0])).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_wins() {
        assert_eq!(negotiate([1, 3], [2, 5]), Some(3));
        assert_eq!(negotiate([1, 1], [1, 1]), Some(1));
        assert_eq!(negotiate([1, 2], [3, 4]), None);
    }
}
