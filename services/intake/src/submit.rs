//! From a request to an accepted task: the same path for every door.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::{AppendError, Recorded, TaskLog};
use spotreel_domain::api::{Accepted, AcceptedMany, ApiError, SubmitResult};
use spotreel_domain::model::MAX_SEED;
use spotreel_domain::request::{TaskSpec, Valid};
use spotreel_domain::{Owner, Task, TaskId, TaskRequest};

use crate::caller::Caller;
use crate::commit::Committer;
use crate::config::QualityConfig;
use crate::images::Images;
use crate::limits::Limits;
use crate::{error, metrics};

/// Tasks of one call on their way at once: enough to fill every batch that may be in flight.
const AT_ONCE: usize = 4_000;

/// What every verb works with.
#[derive(Clone)]
pub struct Intake {
    pub log: TaskLog,
    pub committer: Committer,
    pub images: Images,
    pub limits: Arc<Limits>,
    pub quality: QualityConfig,
}

/// Where a submission came in.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    Request,
    Http,
    /// Delivered again, a message gives the same tasks, judged by the time at which it was stored.
    Inbox {
        stream: &'static str,
        sequence: u64,
        stored_nanos: i128,
        redelivered: bool,
    },
}

pub type Outcome = Result<Accepted, ApiError>;

struct Candidate {
    id: TaskId,
    /// Somebody may have submitted this id before.
    may_be_known: bool,
    valid: Valid,
}

impl Intake {
    /// Accepts what can be accepted; the outcomes stand in the order of the requests.
    pub async fn submit(
        &self,
        requests: Vec<Result<TaskRequest, ApiError>>,
        door: Door,
        caller: &Caller,
    ) -> Vec<Outcome> {
        let now = now();
        let owner = caller.owner();
        let candidates = requests.into_iter().enumerate().map(|(index, request)| {
            let candidate = door.candidate(&request?, index, owner, now)?;
            self.quality.admit(&candidate.valid.spec)?;
            Ok(candidate)
        });
        let submitted = futures::stream::iter(candidates.map(|candidate| async move {
            let outcome = match candidate {
                Ok(candidate) => self.submit_one(candidate, owner, now).await,
                Err(error) => Err(error),
            };
            metrics::submitted(door.name(), outcome.as_ref().map(drop));
            outcome
        }));
        submitted.buffered(AT_ONCE).collect().await
    }

    async fn submit_one(
        &self,
        candidate: Candidate,
        owner: Option<&Owner>,
        now: Timestamp,
    ) -> Outcome {
        let Candidate {
            id,
            may_be_known,
            valid,
        } = candidate;
        let admitted = self.limits.admit();
        // Most names are new, and one that is taken is found by the write. It is asked for before only where its answer
        // must not depend on what a new task would need: a place in the queue, a picture that is still there.
        if may_be_known && (admitted.is_err() || valid.image.is_some()) {
            let known = Box::pin(self.log.last(&id)).await;
            if let Some(known) = known.map_err(|failure| error::unread(&failure))? {
                return answer_again(&known, owner, &valid.content_hash);
            }
        }
        admitted?;
        let mut spec = valid.spec;
        if !valid.seed_given {
            spec.seed = ambient::random_u64() & MAX_SEED;
        }
        if let Some(image) = &valid.image {
            // On the heap: an upload's state is ten kilobytes, and every task would carry room for it.
            spec.image = Some(Box::pin(self.images.settle(image)).await?);
        }
        let hash = valid.content_hash.clone();
        let step = Task::submit_for(owner.cloned(), id.clone(), spec, hash, now);
        let accepted = Accepted::from(&step.1);
        match self
            .committer
            .commit(Append::new(step, 0, ambient::uuid_v4()))
            .await
        {
            Some(Ok(_)) => Ok(accepted),
            Some(Err(AppendError::Conflict(Some(first)))) => {
                answer_again(&first, owner, &valid.content_hash)
            }
            Some(Err(failure)) => Err(unwritten(&failure)),
            None => Err(error::unavailable("intake is stopping")),
        }
    }
}

impl QualityConfig {
    pub(crate) fn admit(&self, spec: &TaskSpec) -> Result<(), ApiError> {
        let (model, quality) = (spec.model, spec.quality);
        match quality.filter(|quality| quality.needs_distilled_weights()) {
            Some(quality) if !self.fast.contains(&model) => {
                let message = format!(
                    "no worker here has the weights for {quality} renders of {model}: say standard or best, or leave quality out"
                );
                Err(error::broken("quality", "offered", message))
            }
            _ => Ok(()),
        }
    }
}

impl Door {
    fn candidate(
        self,
        request: &TaskRequest,
        index: usize,
        owner: Option<&Owner>,
        now: Timestamp,
    ) -> Result<Candidate, ApiError> {
        let at = match self {
            Self::Request | Self::Http => now,
            Self::Inbox { stored_nanos, .. } => {
                Timestamp::from_nanosecond(stored_nanos).unwrap_or(now)
            }
        };
        let valid = request.validate_for(owner, at).map_err(error::invalid)?;
        let (id, may_be_known) = match (&valid.id, self) {
            (Some(id), _) => (id.clone(), true),
            (None, Self::Request | Self::Http) => (TaskId::from(ambient::uuid_v7()), false),
            (
                None,
                Self::Inbox {
                    stream,
                    sequence,
                    stored_nanos,
                    redelivered,
                },
            ) => (
                TaskId::from_inbox(stream, sequence, stored_nanos, index),
                redelivered,
            ),
        };
        Ok(Candidate {
            id,
            may_be_known,
            valid,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Http => "http",
            Self::Inbox { .. } => "inbox",
        }
    }
}

/// The answer to a list.
pub fn sum(outcomes: Vec<Outcome>) -> AcceptedMany {
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let results: Vec<_> = outcomes.into_iter().map(SubmitResult::from).collect();
    AcceptedMany {
        accepted,
        refused: results.len() - accepted,
        results,
    }
}

/// The log keeps milliseconds: with more, the first answer and the same answer again would differ.
pub fn now() -> Timestamp {
    let now = ambient::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// What a failed write means to the client.
pub fn unwritten(failure: &AppendError) -> ApiError {
    match failure {
        AppendError::Full => error::queue_full(
            "the task log is full: send it again later".into(),
            std::time::Duration::from_secs(60),
        ),
        AppendError::TooLarge => error::too_large("the task is larger than the log takes".into()),
        AppendError::Conflict(_) => {
            error::unavailable("others change this task at the same moment")
        }
        AppendError::Unavailable(source) => {
            tracing::warn!(error = %source, "an event could not be written");
            error::unavailable("the task log cannot be written now")
        }
    }
}

/// The id is taken: by this very submission, or by another one.
fn answer_again(first: &Recorded, owner: Option<&Owner>, content_hash: &str) -> Outcome {
    let first_owner = first.task.owner.as_ref();
    match first.task.content_hash == content_hash && first_owner == owner {
        true => Ok(Accepted::from(&first.task)),
        false => Err(error::conflict(&first.task.id)),
    }
}
