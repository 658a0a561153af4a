//! A task's life: one state, one event per transition, and the rules between them.
//!
//! Every event carries the whole state after it, so a task *is* its last event. Two numbers tie it to the log:
//! `entry`, the sequence of its newest `queued` event (its work item), and `start`, the sequence of its newest
//! `started` event (the fence). An event cannot know its own sequence; whoever reads it fills them in
//! ([`Task::placed_at`]).

mod spec;
mod transition;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api_key::Owner;
use crate::id::TaskId;

pub use spec::{MAX_LORA_NAME, TaskLora, TaskSpec, is_lora_name};
pub use transition::{Refused, StartRuling};

/// Attempts that a state keeps. The oldest go first: the newest explain why a task is where it is.
pub const MAX_ATTEMPTS_KEPT: usize = 32;
/// Number of retries of a task; after them it is failed.
pub const MAX_RETRIES: u32 = 3;
/// Starts in a row that end without a word and without a newer checkpoint, until they count as one failure.
pub const LOST_PER_FAILURE: u32 = 3;

/// Workers in a row that could not begin with a task, until they count as one failure: more than are likely to be broken
/// or too small at once, and few enough for a task that nobody can render to end within the hour.
pub const DECLINED_PER_FAILURE: u32 = 8;

/// 10, 40, 160 seconds: long enough for a passing fault, short against a render.
pub fn retry_delay(failures: u32) -> Duration {
    Duration::from_secs(10 * 4u64.pow(failures.clamp(1, MAX_RETRIES) - 1))
}

/// The longest of these delays. A work item that waits longer was hidden by a wrong clock.
pub const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(160);

#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: TaskId,
    /// None: it came by NATS.
    pub owner: Option<Owner>,
    pub spec: TaskSpec,
    pub content_hash: String,
    /// The digest of the request as the client wrote it; none for a task of an older version.
    pub request_digest: Option<[u8; 32]>,
    /// It waits in the back lane of its priority.
    pub back: bool,
    pub submitted_at: Timestamp,
    /// 1 for the first; a person's retry of an ended task begins another.
    pub round: u32,
    /// Sequence of the newest `queued` event.
    pub entry: u64,
    /// Sequence of the first `queued` event. An id that is free again gets another life, and this tells the two apart in
    /// the public events and in storage. 0: the task is older than this field.
    pub born: u64,
    /// The entry of the round before, until it is known to be gone from the log.
    pub previous_entry: u64,
    /// Sequence of the newest `started` event of this round, 0 before there is one.
    pub start: u64,
    /// Failures of this round.
    pub failures: u32,
    /// Starts in a row that were lost without progress.
    pub lost_in_row: u32,
    /// The checkpoints of starts up to this one are not used: they led to a video that the gate refused.
    pub checkpoints_void_to: u64,
    pub attempts: Vec<Attempt>,
    pub attempts_total: u32,
    pub state: State,
    /// When the state was entered.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Runnable, from `not_before` on.
    Queued {
        not_before: Option<Timestamp>,
    },
    Started,
    Succeeded {
        artifact: Artifact,
    },
    Failed {
        error: Failure,
    },
    Cancelled,
    Expired,
}

/// One worker's try at a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    pub worker: String,
    /// The machine: an EC2 instance id, or the host's name.
    pub instance: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub outcome: AttemptOutcome,
    /// The step that it began at: more than 0 when it went on from a checkpoint.
    pub from_step: u32,
    /// When the model was loaded and its work began, as its worker tells at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendering_at: Option<Timestamp>,
    /// The steps that were done at its end, as its worker tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_done: Option<u32>,
    pub error: Option<Failure>,
}

impl Attempt {
    /// Time from its start until the model was loaded. `None`: it has not ended, or its worker does not tell.
    pub fn loading(&self) -> Option<SignedDuration> {
        self.ended_at
            .and(self.rendering_at)
            .map(|at| at.duration_since(self.started_at))
    }

    /// Time from then until its end.
    pub fn rendering(&self) -> Option<SignedDuration> {
        Some(self.ended_at?.duration_since(self.rendering_at?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Outcome)]
pub enum AttemptOutcome {
    Running,
    Succeeded,
    Failed,
    /// Handed back: by order, or, with an error, by a worker that could not begin.
    Interrupted,
    Lost,
    Cancelled,
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

/// Why an attempt failed; the engine's kinds, and the worker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The task cannot be rendered as it is: no retry helps.
    Invalid,
    Retryable,
    Oom,
    Model,
    Device,
    Checkpoint,
    Internal,
    /// The output gate refused the video.
    Gate,
    /// Object storage was away, or refused what the worker needed.
    Storage,
    /// Something of this one worker: its scratch directory, an engine that ended before its first step.
    Worker,
    /// Workers died of it.
    Lost,
}

impl FailureKind {
    pub fn may_be_retried(self) -> bool {
        self != Self::Invalid
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    pub bucket: String,
    pub key: String,
    pub sha256: String,
    pub bytes: u64,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub fps: u32,
    pub engine: String,
    /// The key of the first frame, a JPEG, in the same bucket.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub poster: Option<String>,
}

/// The events of the log, by the token that stands in their subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Queued,
    Started,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
    Interrupted,
    Lost,
    AttemptFailed,
}

impl Event {
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Started,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Interrupted,
        Self::Lost,
        Self::AttemptFailed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Interrupted => "interrupted",
            Self::Lost => "lost",
            Self::AttemptFailed => "attempt_failed",
        }
    }

    pub fn parse(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == token)
    }

    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired
        )
    }
}

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Started => "started",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl Task {
    pub fn is_terminal(&self) -> bool {
        !matches!(self.state, State::Queued { .. } | State::Started)
    }

    /// The state as it stands in the log: an event that makes an entry or a start names its own sequence.
    pub fn placed_at(mut self, sequence: u64, event: Event) -> Self {
        match event {
            Event::Queued => {
                self.entry = sequence;
                // Queued again, a task has an entry before this one.
                if self.round == 1 && self.previous_entry == 0 {
                    self.born = sequence;
                }
            }
            Event::Started => self.start = sequence,
            _ => {}
        }
        self
    }

    /// Under which its videos lie in storage, those of other lives of its id included.
    pub fn renders(id: &TaskId) -> String {
        format!("renders/{id}/")
    }

    /// Under which its checkpoints lie in storage, those of other lives of its id included.
    pub fn checkpoints(id: &TaskId) -> String {
        format!("checkpoints/{id}/")
    }

    /// Whether an object under one of these belongs to this life of the id. Its name begins with the sequence of an event
    /// of the task: the entry of a round, or, as it was before, a start.
    pub fn owns_object(&self, key: &str) -> bool {
        let ours = [Self::renders(&self.id), Self::checkpoints(&self.id)];
        let name = ours
            .iter()
            .find_map(|prefix| key.strip_prefix(prefix.as_str()));
        let sequence = name.and_then(|name| name.split(['/', '.']).next());
        let sequence = sequence.and_then(|text| text.parse::<u64>().ok());
        sequence.is_some_and(|sequence| sequence >= self.born)
    }

    /// Adds to the running attempt what its worker tells of it, before the worker ends it.
    pub fn tell(&mut self, rendering_at: Option<Timestamp>, steps_done: u32) {
        let running = |last: &&mut Attempt| last.outcome == AttemptOutcome::Running;
        if let Some(attempt) = self.attempts.last_mut().filter(running) {
            (attempt.rendering_at, attempt.steps_done) = (rendering_at, Some(steps_done));
        }
    }

    /// The last attempt, if it still runs.
    pub fn running(&self) -> Option<&Attempt> {
        self.attempts
            .last()
            .filter(|attempt| attempt.outcome == AttemptOutcome::Running)
    }
}
