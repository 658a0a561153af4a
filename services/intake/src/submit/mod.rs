//! From a request to an accepted task: the same path for NATS, HTTP and the inbox.
//!
//! A request handler reads its bytes (`parse.rs`), asks `limits.rs` for the rate, and calls [`Intake::submit`]. For each task it
//! checks the model's limits (`TaskRequest::validate_for` in domain) and what the packs allow (`offers.rs`), asks `limits.rs` for
//! room, stores the picture (`images/`), names the LoRAs, and writes `queued` (`commit.rs`). The answer follows the write.

pub mod commit;
pub mod limits;
pub mod offers;
mod owners;
pub mod parse;
mod tokens;

use futures::StreamExt;
use jiff::Timestamp;
use spotreel_api::{
    Accepted, AcceptedMany, ApiError, SubmitResult, TaskRequest, Valid, crop_percent,
    rule_of_target, size_of_picture,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::AppendError;
use spotreel_bus::log::Append;
use spotreel_domain::model::MAX_SEED;
use spotreel_domain::task::TaskSpec;
use spotreel_domain::webhook::{AllowedHosts, WebhookUrl};
use spotreel_domain::{Owner, Task, TaskId};

use crate::clock::now;
use crate::intake::Intake;
use crate::keys::Caller;
use crate::{error, metrics};

/// Tasks of one call on their way at once: enough to fill every batch that may be in flight.
const AT_ONCE: usize = 4_000;

/// Where a submission came in.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
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
    digest: Option<[u8; 32]>,
    /// Or why no new task is made of the request.
    valid: Result<Valid, ApiError>,
}

impl Intake {
    /// Accepts what can be accepted; the outcomes stand in the order of the requests.
    pub async fn submit(
        &self,
        requests: Vec<Result<TaskRequest, ApiError>>,
        origin: Origin,
        caller: &Caller,
    ) -> Vec<Outcome> {
        let now = now();
        let owner = caller.owner();
        let candidates = requests.into_iter().enumerate().map(|(index, request)| {
            let mut candidate = origin.candidate(&request?, index, owner, now);
            candidate.valid = candidate.valid.and_then(|mut valid| {
                self.offers.admit(&mut valid.spec)?;
                permit_callback(&valid.spec, &self.callback_hosts)?;
                Ok(valid)
            });
            Ok(candidate)
        });
        let submitted = futures::stream::iter(candidates.map(|candidate| async move {
            let outcome = match candidate {
                Ok(candidate) => self.submit_one(candidate, owner, now).await,
                Err(error) => Err(error),
            };
            metrics::submitted(origin.name(), outcome.as_ref().map(drop));
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
            digest,
            valid,
        } = candidate;
        let mut back = false;
        let admitted = valid.and_then(|valid| {
            back = self.limits.admit(owner)?;
            Ok(valid)
        });
        // Most names are new, and one that is taken is found by the write. It is asked for before only where its answer
        // must not depend on what a new task would need: a deadline ahead, a place in the queue, a picture or a LoRA that
        // is still there.
        let plain =
            matches!(&admitted, Ok(valid) if valid.image.is_none() && valid.spec.loras.is_empty());
        if may_be_known && !plain {
            let known = Box::pin(self.log.last(&id)).await;
            if let Some(known) = known.map_err(|failure| error::unread(&failure))? {
                return answer_again(&known.task, owner, digest, admitted);
            }
        }
        let valid = admitted?;
        let mut spec = valid.spec.clone();
        if !valid.seed_given {
            spec.seed = ambient::random_u64() & MAX_SEED;
        }
        if let Some(image) = &valid.image {
            // On the heap: an upload's state is ten kilobytes, and every task would carry room for it.
            let kept = Box::pin(self.images.settle(image)).await?;
            let picture = (kept.width, kept.height);
            if valid.size_of_picture {
                let size = (spec.width, spec.height);
                (spec.width, spec.height) = size_of_picture(spec.model, size, picture);
            }
            spec.crop_percent = Some(crop_percent(picture, (spec.width, spec.height)));
            spec.image = Some(kept.key);
        }
        if !spec.loras.is_empty() {
            let (model, loras) = (spec.model, &mut spec.loras);
            Box::pin(self.offers.settle(model, loras)).await?;
        }
        let hash = valid.content_hash.clone();
        let mut step = Task::submit_for(owner.cloned(), id, spec, hash, now);
        step.1.request_digest = digest;
        step.1.back = back;
        let accepted = Accepted::from(&step.1);
        match self
            .committer
            .commit(Append::new(step, 0, ambient::uuid_v4()))
            .await
        {
            Some(Ok(_)) => Ok(accepted),
            Some(Err(AppendError::Conflict(Some(first)))) => {
                answer_again(&first.task, owner, digest, Ok(valid))
            }
            Some(Err(failure)) => Err(error::unwritten(&failure)),
            None => Err(error::unavailable("intake is stopping")),
        }
    }
}

impl Origin {
    fn candidate(
        self,
        request: &TaskRequest,
        index: usize,
        owner: Option<&Owner>,
        now: Timestamp,
    ) -> Candidate {
        let at = match self {
            Self::Request | Self::Http => now,
            Self::Inbox { stored_nanos, .. } => {
                Timestamp::from_nanosecond(stored_nanos).unwrap_or(now)
            }
        };
        let valid = request.validate_for(owner, at).map_err(error::invalid);
        let chosen = match &valid {
            Ok(valid) => valid.id.clone(),
            Err(_) => request.chosen_id(owner),
        };
        let (id, may_be_known) = match (chosen, self) {
            (Some(id), _) => (id, true),
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
        Candidate {
            id,
            may_be_known,
            digest: request.digest(),
            valid,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Http => "http",
            Self::Inbox { .. } => "inbox",
        }
    }
}

/// Notifier checks each address of a name before it connects; what is inside by the looks of it is refused here.
pub fn permit_callback(spec: &TaskSpec, allowed: &AllowedHosts) -> Result<(), ApiError> {
    let Some(url) = &spec.callback_url else {
        return Ok(());
    };
    let permitted = WebhookUrl::parse(url).and_then(|target| target.permit(allowed));
    permitted.map_err(|bad| error::broken("callback_url", rule_of_target(&bad), bad.to_string()))
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

/// The id is taken: by this very submission, whose answer is given again even where a new task would be refused now, or by
/// another one.
fn answer_again(
    first: &Task,
    owner: Option<&Owner>,
    digest: Option<[u8; 32]>,
    admitted: Result<Valid, ApiError>,
) -> Outcome {
    if first.owner.as_ref() != owner {
        return Err(admitted.map_or_else(|error| error, |_| error::conflict(&first.id, &[])));
    }
    if digest.is_some() && first.request_digest == digest {
        return Ok(Accepted::from(first));
    }
    let valid = admitted?;
    // Tasks of older versions have this hash alone; and a client may write out what was a default before.
    match first.content_hash == valid.content_hash {
        true => Ok(Accepted::from(first)),
        false => Err(error::conflict(
            &first.id,
            &valid.fields_that_differ(&first.spec),
        )),
    }
}
