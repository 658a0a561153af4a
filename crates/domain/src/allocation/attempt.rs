//! The attempts of tasks as the task log tells them: what the ledger of a batch is made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api_key::Owner;
use crate::id::TaskId;
use crate::model::Model;
use crate::task::{Attempt, AttemptOutcome, Task};

/// One attempt, with whose task it was. The same attempt is told up to three times: when it starts, when it ends, and when
/// the next one starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub task: TaskId,
    /// Tells two lives of an id apart.
    #[serde(default)]
    pub born: u64,
    /// 1 for the task's first.
    pub number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub model: Model,
    /// The steps of the whole render.
    pub steps: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub attempt: Attempt,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextAttempt>,
}

/// Where the attempt after this one went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAttempt {
    pub from_step: u32,
    pub started_at: Timestamp,
}

/// How much a record knows; of two records of one attempt the one that knows more counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    Started,
    Ended,
    Followed,
}

impl Knowledge {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ended => "ended",
            Self::Followed => "followed",
        }
    }
}

impl AttemptRecord {
    /// Every attempt that the task's state still tells of, the oldest first.
    pub fn all(task: &Task) -> Vec<Self> {
        let kept = u32::try_from(task.attempts.len()).unwrap_or(u32::MAX);
        let forgotten = task.attempts_total.saturating_sub(kept);
        let next = task.attempts.iter().skip(1).map(|next| NextAttempt {
            from_step: next.from_step,
            started_at: next.started_at,
        });
        let next = next.map(Some).chain([None]);
        let numbered = (forgotten + 1..).zip(&task.attempts).zip(next);
        numbered
            .map(|((number, attempt), next)| Self {
                task: task.id.clone(),
                born: task.born,
                number,
                owner: task.owner.clone(),
                model: task.spec.model,
                steps: task.spec.steps,
                labels: task.spec.labels.clone(),
                attempt: Attempt {
                    error: attempt.error.clone().map(|mut error| {
                        // Its kind decides nothing here, and messages may be long.
                        error.message.clear();
                        error
                    }),
                    ..attempt.clone()
                },
                next,
            })
            .collect()
    }

    pub fn knows(&self) -> Knowledge {
        match (&self.next, self.attempt.outcome) {
            (Some(_), _) => Knowledge::Followed,
            (None, AttemptOutcome::Running) => Knowledge::Started,
            (None, _) => Knowledge::Ended,
        }
    }
}

/// One record an attempt, the one that knows most, in order of task and number.
pub fn merged(records: impl IntoIterator<Item = AttemptRecord>) -> Vec<AttemptRecord> {
    let mut best: BTreeMap<(TaskId, u64, u32), AttemptRecord> = BTreeMap::new();
    for record in records {
        let key = (record.task.clone(), record.born, record.number);
        match best.get(&key) {
            Some(known) if known.knows() >= record.knows() => {}
            _ => drop(best.insert(key, record)),
        }
    }
    best.into_values().collect()
}
