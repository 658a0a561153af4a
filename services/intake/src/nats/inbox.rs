//! Submissions by publish: taken from the stream INBOX, and gone from it only when every task of the message has its
//! answer — its first event, or a rejection. Delivered again, a message gives the same tasks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spotreel_api::{ApiError, CloudEvent, MAX_VIOLATIONS, Rejection, TaskRequest, Violation};
use spotreel_bootstrap::Context;
use spotreel_bus::events::EventStream;
use spotreel_bus::names::INBOX;
use spotreel_bus::{Delivery, Queue, queue::QueueError};
use spotreel_domain::TaskId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::pace::BytePace;
use crate::clock::now;
use crate::config::{InboxConfig, LARGEST_MESSAGE_MIB};
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;
use crate::submit::parse::{self, Submission};
use crate::submit::{Origin, Outcome};

/// How long one pull waits for a message: the longest that a stop waits for this loop.
const PULL_WAIT: Duration = Duration::from_secs(2);
/// Between tries while the server does not answer.
const PAUSE: Duration = Duration::from_secs(1);
const KIB: usize = 1_024;
/// KiB that are free before anything is pulled, so that a message of any size fits.
#[expect(clippy::cast_possible_truncation, reason = "it is 9,216")]
const LARGEST_KIB: u32 = (LARGEST_MESSAGE_MIB * KIB) as u32;

/// The server compares it for two minutes only; here it names the task for good.
const MSG_ID: &str = "Nats-Msg-Id";

/// The content type of everything in EVENTS. A consumer of EVENTS can deliver into the inbox, and a rejection is an event:
/// rejecting events would make more of them without end.
const EVENT_TYPE: &str = "application/cloudevents";

#[derive(Clone)]
pub struct Inbox {
    pub intake: Arc<Intake>,
    pub queue: Queue,
    pub events: EventStream,
    pub config: InboxConfig,
    pub pace: Arc<BytePace>,
}

pub async fn run(inbox: Inbox, ctx: Context) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(inbox.config.in_flight));
    let memory = Arc::new(Semaphore::new(inbox.config.memory_mib * KIB));
    while !ctx.stopping.is_cancelled() {
        // Only what can be worked on now is taken: what waits here would lose its lease.
        let first = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let mut free = vec![first];
        free.extend(std::iter::from_fn(|| {
            places.clone().try_acquire_owned().ok()
        }));
        let mut room = room(&memory).await;
        match pull(&inbox.queue, free.len(), room.num_permits() * KIB).await {
            Ok(deliveries) => {
                for (delivery, place) in deliveries.into_iter().zip(free) {
                    let kib = delivery.length.div_ceil(KIB).min(room.num_permits());
                    let held = room.split(kib);
                    let inbox = inbox.clone();
                    ctx.tasks.spawn(async move {
                        inbox.take(&delivery).await;
                        drop((place, held));
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "pulling from INBOX failed");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = ctx.stopping.cancelled() => {}
                }
            }
        }
    }
    Ok(())
}

/// All memory that is free, once a message of the largest size fits.
async fn room(memory: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let room = memory.clone().acquire_many_owned(LARGEST_KIB).await;
    let mut room = room.expect("the semaphore is never closed");
    let others = u32::try_from(memory.available_permits()).unwrap_or(u32::MAX);
    if let Ok(others) = memory.clone().try_acquire_many_owned(others) {
        room.merge(others);
    }
    room
}

async fn pull(queue: &Queue, most: usize, bytes: usize) -> Result<Vec<Delivery>, QueueError> {
    let ready = queue.pull_within(most, bytes).await?;
    if !ready.is_empty() {
        return Ok(ready);
    }
    Ok(queue.pull(PULL_WAIT).await?.into_iter().collect())
}

impl Inbox {
    async fn take(&self, delivery: &Delivery) {
        let span = tracing::info_span!(
            "inbox",
            sequence = delivery.sequence,
            delivered = delivery.delivered
        );
        spotreel_bus::trace::adopt(&span, &delivery.headers);
        async {
            let said = match self.settle(delivery).await {
                Ok(()) => delivery.ack().await,
                Err(again) => delivery.nak(again).await,
            };
            if let Err(error) = said {
                tracing::warn!(%error, "ack of an inbox message failed; it will be redelivered");
            }
        }
        .instrument(span)
        .await;
    }

    /// `Ok`: everything in the message is answered. `Err`: not yet; the delay before the next try.
    async fn settle(&self, delivery: &Delivery) -> Result<(), Duration> {
        let kind = delivery
            .headers
            .get("Content-Type")
            .map(async_nats::HeaderValue::as_str);
        if kind.is_some_and(|kind| kind.starts_with(EVENT_TYPE)) {
            tracing::warn!(
                sequence = delivery.sequence,
                "event in the inbox dropped: a consumer of EVENTS has spotreel.inbox as its deliver or reply subject"
            );
            return Ok(());
        }
        let paced = self.pace.check(delivery.length);
        paced.map_err(|error| self.later(&error))?;
        let mut submission = match parse::submission(&delivery.payload, kind) {
            Ok(submission) => submission,
            Err(error) => return self.reject(delivery.sequence, None, 0, error).await,
        };
        if let Some(key) = delivery.headers.get(MSG_ID) {
            submission.name(key.as_str());
        }
        let (requests, is_list) = match submission {
            Submission::One(request) => (vec![Ok(*request)], false),
            Submission::Many(requests) => (requests, true),
        };
        let ids: Vec<_> = requests
            .iter()
            .map(|request| client_id(request.as_ref().ok()))
            .collect();
        self.intake
            .limits
            .pace(requests.len())
            .map_err(|error| self.later(&error))?;
        let origin = Origin::Inbox {
            stream: INBOX,
            sequence: delivery.sequence,
            stored_nanos: delivery.stored_nanos,
            redelivered: delivery.delivered > 1,
        };
        let outcomes = self.intake.submit(requests, origin, &Caller::Trusted).await;
        // First what may still be accepted: nothing is said twice when the message comes again.
        for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            if error::is_transient(error) {
                return Err(self.later(error));
            }
        }
        self.reject_all(delivery, ids, outcomes, is_list).await
    }

    /// One event for each refused task with an id, and one for all those without.
    async fn reject_all(
        &self,
        delivery: &Delivery,
        ids: Vec<Option<TaskId>>,
        outcomes: Vec<Outcome>,
        is_list: bool,
    ) -> Result<(), Duration> {
        let mut nameless = Vec::new();
        for (index, (id, outcome)) in ids.into_iter().zip(outcomes).enumerate() {
            match (id, outcome) {
                (_, Ok(_)) => {}
                (Some(id), Err(error)) => {
                    self.reject(delivery.sequence, Some(id), index, error)
                        .await?;
                }
                (None, Err(error)) => nameless.push((index, error)),
            }
        }
        match nameless.len() {
            0 => Ok(()),
            1 if !is_list => {
                self.reject(delivery.sequence, None, 0, nameless.remove(0).1)
                    .await
            }
            _ => {
                self.reject(delivery.sequence, None, 0, error::invalid(gather(nameless)))
                    .await
            }
        }
    }

    async fn reject(
        &self,
        sequence: u64,
        id: Option<TaskId>,
        index: usize,
        error: ApiError,
    ) -> Result<(), Duration> {
        let subject = id
            .as_ref()
            .map_or_else(|| format!("inbox/{}", sequence), ToString::to_string);
        let event_id = format!("inbox/{}/{index}", sequence);
        let data = Rejection {
            id: id.clone(),
            error,
            inbox_sequence: sequence,
        };
        let event = CloudEvent::new(event_id, "task.rejected", subject, now(), data);
        let payload =
            Bytes::from(serde_json::to_vec(&event).expect("an event has string keys only"));
        match self.events.reject(id.as_ref(), sequence, payload).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), "publishing a rejection failed");
                Err(self.config.retry_after)
            }
        }
    }

    fn later(&self, error: &ApiError) -> Duration {
        error
            .retry_after_s
            .map_or(self.config.retry_after, Duration::from_secs)
    }
}

/// The id by which the client knows its task, if it gave one that can be used.
fn client_id(request: Option<&TaskRequest>) -> Option<TaskId> {
    let request = request?;
    match (&request.id, &request.idempotency_key) {
        (Some(id), _) => TaskId::parse(id).ok(),
        (None, Some(key)) if !key.is_empty() => Some(TaskId::from_idempotency_key(key)),
        _ => None,
    }
}

/// One list of what is broken out of many, with the places; bounded, since an event is one message.
fn gather(refused: Vec<(usize, ApiError)>) -> Vec<Violation> {
    let each = refused.into_iter().flat_map(|(index, error)| {
        let ApiError {
            message,
            violations,
            ..
        } = error;
        let violations = match violations.is_empty() {
            true => vec![Violation::new("body", "task", message)],
            false => violations,
        };
        violations.into_iter().map(move |broken| Violation {
            field: format!("[{index}].{}", broken.field),
            ..broken
        })
    });
    each.take(MAX_VIOLATIONS).collect()
}
