//! Why an attempt made no video, and whose fault that is.

use spotreel_domain::chain;
use spotreel_domain::render_time::Gpu;
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_s3::{GetBytesError, RequestError};

use crate::engine::protocol::{CODE_DOES_NOT_FIT, ErrorKind};
use crate::engine::{EngineError, EngineFailure};
use crate::machine::scratch::ScratchError;
use crate::machine::suitability::{TooLarge, Unsuitable};
use crate::packs::PackUnavailable;
use crate::packs::loras::LoraFetchError;

/// As much of an engine's log as helps a person; the whole state travels in every event.
const LOG_LINES: usize = 5;
const LOG_BYTES: usize = 1_000;
/// The code of what the worker itself met, where nothing more exact is known.
const CODE_WORKER: &str = "worker";

/// Whose fault a failure is; only the task's own counts against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Task,
    /// Another worker, with whole weights, a larger accelerator or a scratch directory, may render it.
    Worker,
    /// Nobody can render anything before they are well again.
    Surroundings,
}

/// Why an attempt ended without a rendered file.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error(transparent)]
    Unsuitable(#[from] Unsuitable),
    #[error(transparent)]
    Pack(#[from] PackUnavailable),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("checkpoint {key}")]
    Checkpoint { key: String, source: RequestError },
    #[error("image {key}")]
    Image { key: String, source: RequestError },
    /// It is not there, or too large.
    #[error(transparent)]
    BadImage(GetBytesError),
    #[error(transparent)]
    Lora(#[from] LoraFetchError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl AttemptError {
    /// What went wrong with the engine. None: the failure is the worker's own, and its engine can render on.
    pub fn engine(&self) -> Option<&EngineError> {
        match self {
            Self::Engine(error) => Some(error),
            _ => None,
        }
    }

    /// What the engine said, or how its process ended.
    pub fn engine_failure(&self) -> Option<&EngineFailure> {
        self.engine().and_then(EngineError::failure)
    }

    /// If the task does not fit this accelerator.
    pub fn too_large(&self) -> Option<TooLarge> {
        match self {
            Self::Unsuitable(Unsuitable::TooLarge(why)) => Some(why.clone()),
            _ => {
                let failure = self
                    .engine_failure()
                    .filter(|failure| failure.does_not_fit())?;
                Some(TooLarge {
                    message: failure.message.clone(),
                    needed_bytes: failure.needed_bytes,
                })
            }
        }
    }

    /// Whether the model's weights on this machine are missing or broken: every task of the model would fail here.
    pub fn spoils_model(&self) -> bool {
        self.engine_failure()
            .is_some_and(|failure| failure.kind == ErrorKind::Model)
    }

    /// Whether the failure leaves the other tasks: this one does not fit, or its model's files are unusable.
    pub fn leaves_others(&self) -> bool {
        self.too_large().is_some() || self.spoils_model() || matches!(self, Self::Pack(_))
    }

    pub fn blame(&self) -> Blame {
        self.class().0
    }

    /// As it stands in the task's record: with its code, what machine would do, and the last lines of the engine's log.
    pub fn record(&self) -> Failure {
        let (_, kind, code) = self.class();
        let failure = self.engine_failure();
        let text = failure.map_or_else(|| chain(self), |failure| failure.message.clone());
        let mut message = format!("{text} ({code})");
        let too_large = self.too_large().and_then(|why| why.needed_bytes);
        if let Some(needed) = failure.and_then(|f| f.needed_bytes).or(too_large) {
            message.push_str(&advice(needed));
        }
        if let Some(failure) = failure {
            let tail = failure.log_tail.iter().rev().take(LOG_LINES).rev();
            let tail: String = tail.map(|line| format!("\n{line}")).collect();
            message.extend(tail.chars().take(LOG_BYTES));
        }
        Failure { kind, message }
    }

    fn class(&self) -> (Blame, FailureKind, &str) {
        match self {
            Self::Unsuitable(Unsuitable::TooLarge(_)) => {
                (Blame::Worker, FailureKind::Oom, CODE_DOES_NOT_FIT)
            }
            Self::Unsuitable(Unsuitable::NoDistilledWeights { .. }) => {
                (Blame::Task, FailureKind::Invalid, "quality")
            }
            Self::Unsuitable(Unsuitable::NoLoras { .. }) => {
                (Blame::Task, FailureKind::Invalid, "loras")
            }
            Self::Pack(_) => (Blame::Worker, FailureKind::Model, "pack"),
            Self::Scratch(_) | Self::Lora(LoraFetchError::Scratch(_)) => {
                (Blame::Worker, FailureKind::Worker, "scratch")
            }
            Self::Checkpoint { .. }
            | Self::Image { .. }
            | Self::Lora(LoraFetchError::Storage { .. }) => {
                (Blame::Surroundings, FailureKind::Storage, "storage")
            }
            Self::BadImage(_) => (Blame::Task, FailureKind::Retryable, CODE_WORKER),
            Self::Lora(_) => (Blame::Task, FailureKind::Invalid, "lora"),
            Self::Engine(EngineError::Failed(failure)) => {
                let blame = blame_for(failure);
                (blame, kind_of(failure, blame), failure.code.as_str())
            }
            // The engine is gone, or was never there.
            Self::Engine(_) => (Blame::Worker, FailureKind::Worker, CODE_WORKER),
        }
    }
}

/// An engine that ends before its first step has not met anything that is the task's own.
fn blame_for(failure: &EngineFailure) -> Blame {
    let died_at_once = !failure.engine_alive && !failure.stepped;
    match failure.kind {
        ErrorKind::Model => Blame::Worker,
        ErrorKind::Retryable | ErrorKind::Device if died_at_once => Blame::Worker,
        _ if failure.does_not_fit() => Blame::Worker,
        _ => Blame::Task,
    }
}

fn kind_of(failure: &EngineFailure, blame: Blame) -> FailureKind {
    match failure.kind {
        ErrorKind::Retryable if blame == Blame::Worker => FailureKind::Worker,
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::Oom => FailureKind::Oom,
        ErrorKind::Model => FailureKind::Model,
        ErrorKind::Device => FailureKind::Device,
        ErrorKind::Checkpoint => FailureKind::Checkpoint,
        ErrorKind::Internal | ErrorKind::Protocol => FailureKind::Internal,
        ErrorKind::Retryable | ErrorKind::Cancelled => FailureKind::Retryable,
    }
}

/// What machine would do.
fn advice(needed: u64) -> String {
    let gigabytes = needed.div_ceil(1_000_000_000);
    match Gpu::smallest_with(needed) {
        Some(gpu) => {
            let (name, has) = (gpu.name(), gpu.memory_gb());
            format!(
                "; it takes {gigabytes} GB of GPU memory: the smallest that has it is the {name} with {has} GB"
            )
        }
        None => format!(
            "; it takes {gigabytes} GB of GPU memory, which no single GPU has: ask for fewer pixels or frames"
        ),
    }
}

#[cfg(test)]
mod tests {
    use spotreel_api::TaskRequest;
    use spotreel_bootstrap::ambient;
    use spotreel_domain::Model;
    use spotreel_domain::render_time::Job;
    use spotreel_domain::task::TaskSpec;

    use super::*;
    use crate::machine::suitability::Misfits;

    const MODEL: Model = Model::T2vA14b;

    #[test]
    fn what_did_not_fit_is_refused_again_with_what_it_would_take() {
        let request = TaskRequest {
            model: MODEL.as_str().into(),
            prompt: "a red fox".into(),
            ..TaskRequest::default()
        };
        let large = request.validate(ambient::now()).unwrap().spec;
        let small = TaskSpec {
            frames: 5,
            ..large.clone()
        };
        let mut misfits = Misfits::default();
        let reported = |code: &str| {
            let message = "1280x720, 81 frames do not fit on NVIDIA L4".to_owned();
            let failure = EngineFailure {
                engine_alive: true,
                needed_bytes: Some(46_000_000_000),
                ..EngineFailure::new(ErrorKind::Oom, code, message)
            };
            AttemptError::from(EngineError::from(failure))
        };
        let (failure, passing) = (reported("does_not_fit"), reported("out_of_memory"));
        misfits.remember(&large, passing.too_large());
        let found = misfits.check(&Job::of(&large));
        assert_eq!(found, Ok(()), "that may go well another time");
        misfits.remember(&large, failure.too_large());
        let again = misfits.check(&Job::of(&large)).unwrap_err();
        assert_eq!(Some(&again), failure.too_large().as_ref());
        assert_eq!(misfits.check(&Job::of(&small)), Ok(()));
        let other = TaskSpec {
            model: Model::I2vA14b,
            ..large.clone()
        };
        assert_eq!(misfits.check(&Job::of(&other)), Ok(()));
        let said = failure.record();
        assert_eq!(said, AttemptError::from(Unsuitable::from(again)).record());
        assert_eq!(said.kind, FailureKind::Oom);
        assert!(
            said.message.contains("46 GB") && said.message.contains("L40S with 48 GB"),
            "{}",
            said.message
        );
        assert_eq!(
            (failure.blame(), passing.blame()),
            (Blame::Worker, Blame::Task)
        );
        assert!(advice(200_000_000_000).contains("no single GPU"));
    }
}
