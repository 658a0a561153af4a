//! What can go wrong with an engine.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
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
    #[error("no engine is running")]
    NotRunning,
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

impl EngineError {
    /// What the engine, or its end, said.
    #[must_use]
    pub fn failure(&self) -> Option<&EngineFailure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
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

impl fmt::Display for EngineFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind, self.code, self.message)
    }
}

impl std::error::Error for EngineFailure {}

impl EngineFailure {
    pub(crate) fn new(kind: ErrorKind, code: &str, message: String) -> Self {
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

    /// An end without a word. Another machine may do better, unless the accelerator is what broke.
    pub(super) fn exited(status: ExitStatus) -> Self {
        let message = describe(status);
        if status.code() == Some(EXIT_DEVICE) {
            return Self::new(ErrorKind::Device, "device", message);
        }
        Self::new(ErrorKind::Retryable, "engine_exited", message)
    }

    pub(super) fn deadline(message: &str) -> Self {
        Self::new(ErrorKind::Retryable, "deadline", message.to_owned())
    }

    pub(super) fn broken(error: &LineError) -> Self {
        Self::contract(&explain(error))
    }

    /// The engine broke the contract: a bug of it, or of this worker, so the task deserves another try elsewhere.
    pub(super) fn contract(why: &str) -> Self {
        Self::new(ErrorKind::Retryable, "protocol", why.to_owned())
    }
}

/// An exit in words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the engine exited with status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("the engine was killed by {name}"),
            Err(_) => format!("the engine was killed by signal {signal}"),
        },
        (None, None) => "the engine ended".to_owned(),
    }
}

/// A violation in words, its source included.
fn explain(error: &LineError) -> String {
    match error {
        LineError::NotAMessage(source) => format!("{error}: {source}"),
        LineError::TooLong => error.to_string(),
    }
}
