//! What can go wrong with an engine.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::process::ExitStatus;

use spotreel_engine_protocol::{
    CODE_DOES_NOT_FIT, EXIT_DEVICE, ErrorKind, ErrorReport, LineError, PROTO,
};

/// Why an engine cannot be used for what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the engine cannot be started")]
    Spawn(#[source] io::Error),
    #[error("the engine supports versions {theirs:?} of the contract, this worker {PROTO:?}")]
    Version { theirs: [u32; 2] },
    #[error("the model {model} is not loaded")]
    NotLoaded { model: String },
    #[error("a load or a render was aborted; the engine is being killed")]
    Abandoned,
    #[error("the engine does not read its messages, or has exited")]
    Deaf,
    #[error("the message cannot be encoded")]
    Message(#[source] LineError),
    #[error(transparent)]
    Failed(Box<EngineFailure>),
}

impl From<EngineFailure> for EngineError {
    fn from(failure: EngineFailure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// How a render, a load or the engine itself ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineFailure {
    /// What it means for the queue.
    pub kind: ErrorKind,
    /// A stable word: the engine's own, or `engine_exited`, `deadline`, `protocol`, `device`.
    pub code: String,
    pub message: String,
    /// The newest lines of the engine's stdout and stderr.
    pub log_tail: VecDeque<String>,
    /// Whether the same engine can render again.
    pub engine_alive: bool,
    /// Of accelerator memory, where that is what was lacking.
    pub needed_bytes: Option<u64>,
    /// Whether this render had done a step before.
    pub stepped: bool,
}

/// Whose fault a failure is; only the task's own counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Task,
    /// Another worker, with whole weights, a larger accelerator or a scratch directory, may render it.
    Worker,
    /// Nobody can render anything before they are well again.
    Surroundings,
}

/// The code of a failure of the scratch directory.
pub const CODE_SCRATCH: &str = "scratch";
/// The code of a failure of object storage.
pub const CODE_STORAGE: &str = "storage";

impl fmt::Display for EngineFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind, self.code, self.message)
    }
}

impl std::error::Error for EngineFailure {}

impl EngineFailure {
    fn new(kind: ErrorKind, code: &str, message: String) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message,
            log_tail: VecDeque::new(),
            engine_alive: false,
            needed_bytes: None,
            stepped: false,
        }
    }

    /// The scratch directory cannot be used.
    pub fn of_scratch(message: String) -> Self {
        let failure = Self::new(ErrorKind::Retryable, CODE_SCRATCH, message);
        Self {
            engine_alive: true,
            ..failure
        }
    }

    /// Object storage does not answer, or refuses what every worker needs.
    pub fn of_storage(message: String) -> Self {
        let failure = Self::new(ErrorKind::Retryable, CODE_STORAGE, message);
        Self {
            engine_alive: true,
            ..failure
        }
    }

    pub(super) fn reported(report: &ErrorReport) -> Self {
        Self {
            needed_bytes: report.context["needed_bytes"].as_u64(),
            ..Self::new(report.kind, &report.code, report.message.clone())
        }
    }

    /// The task does not fit this accelerator; no second try will show anything else.
    #[must_use]
    pub fn does_not_fit(&self) -> bool {
        self.kind == ErrorKind::Oom && self.code == CODE_DOES_NOT_FIT
    }

    /// Whose fault it is. An engine that ends before its first step has not met anything that is the task's own.
    #[must_use]
    pub fn blame(&self) -> Blame {
        let died_at_once = !self.engine_alive && !self.stepped;
        match (self.kind, self.code.as_str()) {
            (_, CODE_STORAGE) => Blame::Surroundings,
            (_, CODE_SCRATCH) | (ErrorKind::Model, _) => Blame::Worker,
            (ErrorKind::Retryable | ErrorKind::Device, _) if died_at_once => Blame::Worker,
            _ if self.does_not_fit() => Blame::Worker,
            _ => Blame::Task,
        }
    }

    /// An end without a word. Another machine may do better, unless the accelerator is what broke.
    pub(super) fn exited(status: ExitStatus) -> Self {
        let message = super::describe(status);
        if status.code() == Some(EXIT_DEVICE) {
            return Self::new(ErrorKind::Device, "device", message);
        }
        Self::new(ErrorKind::Retryable, "engine_exited", message)
    }

    pub(super) fn deadline(message: &str) -> Self {
        Self::new(ErrorKind::Retryable, "deadline", message.to_owned())
    }

    pub(super) fn broken(error: &LineError) -> Self {
        Self::contract(&super::explain(error))
    }

    /// The engine broke the contract: a bug of it, or of this worker, so the task deserves another try elsewhere.
    pub(super) fn contract(why: &str) -> Self {
        Self::new(ErrorKind::Retryable, "protocol", why.to_owned())
    }
}
