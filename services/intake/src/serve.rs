//! The NATS service: an endpoint for each verb, each request on a task of its own, so many at a time.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures::{FutureExt, StreamExt};
use spotreel_bootstrap::Context;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, names};
use spotreel_domain::api::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use crate::error::{self, StartError};
use crate::metrics;
use crate::pace::BytePace;
use crate::submit::Intake;
use crate::verbs::{self, Verb};

/// Offers the verbs. The service answers `nats micro` for as long as it is held.
pub async fn offer(
    intake: &Arc<Intake>,
    client: &Client,
    ctx: &Context,
    room: Room,
) -> Result<Service, StartError> {
    let failed = |subject| {
        move |error: async_nats::Error| StartError::Endpoint {
            subject,
            reason: error.to_string(),
        }
    };
    let service = client
        .service_builder()
        .description("submissions, and questions about tasks")
        .start("spotreel-intake", env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed("$SRV"))?;
    let room = Arc::new(room);
    for verb in Verb::ALL {
        let builder = service.endpoint_builder().name(verb.name());
        let endpoint = builder
            .add(verb.subject())
            .await
            .map_err(failed(verb.subject()))?;
        ctx.spawn(
            verb.name(),
            listen(endpoint, verb, intake.clone(), room.clone(), ctx.clone()),
        );
    }
    // A flush only empties our buffer. The server takes what one connection says in order: once it has answered
    // this, the doors above are open. What it answers does not matter here; the next poll reports it.
    let _ = intake.limits.poll().await;
    Ok(service)
}

async fn listen(
    mut endpoint: Endpoint,
    verb: Verb,
    intake: Arc<Intake>,
    room: Arc<Room>,
    ctx: Context,
) -> anyhow::Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            () = ctx.stopping.cancelled() => break,
            next = endpoint.next() => next,
        };
        let Some(request) = next else { break };
        hand_over(&intake, verb, request, &room, &ctx).await;
    }
    // What has arrived is answered; what comes now goes to another intake.
    while let Some(Some(request)) = endpoint.next().now_or_never() {
        hand_over(&intake, verb, request, &room, &ctx).await;
    }
    endpoint.stop().await?;
    Ok(())
}

/// Requests that wait for a place, for each that has one: clients ask in bursts.
const WAITING: usize = 8;
/// Bytes of a request that the budget does not count: with them, all that wait together stay below the budget.
const FREE: usize = 16 * KIB;
const KIB: usize = 1_024;

/// The requests that are held at the same time, and their memory. Nobody else bounds it: what is not read here lies in the
/// client's queue, each message with up to 8 MB.
pub struct Room {
    places: Arc<Semaphore>,
    held: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    pace: Arc<BytePace>,
}

/// What one request has of it.
struct Share {
    _held: OwnedSemaphorePermit,
    _kib: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub fn new(at_once: usize, memory_mib: usize, pace: Arc<BytePace>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once)),
            held: Arc::new(Semaphore::new(at_once * WAITING)),
            kib: Arc::new(Semaphore::new(memory_mib * KIB)),
            pace,
        }
    }

    /// For a request of so many bytes, before anything of it is read. At once or not at all: whoever waited would hold its
    /// bytes meanwhile.
    fn admit(&self, bytes: usize) -> Result<Share, ApiError> {
        let share = self.share(bytes).ok_or_else(|| {
            error::busy("too many requests, or too large ones, arrive at the same time")
        })?;
        self.pace.check(bytes)?;
        Ok(share)
    }

    fn share(&self, bytes: usize) -> Option<Share> {
        let kib = u32::try_from(bytes.saturating_sub(FREE).div_ceil(KIB)).ok()?;
        Some(Share {
            _held: self.held.clone().try_acquire_owned().ok()?,
            _kib: match kib {
                0 => None,
                kib => Some(self.kib.clone().try_acquire_many_owned(kib).ok()?),
            },
        })
    }
}

async fn hand_over(
    intake: &Arc<Intake>,
    verb: Verb,
    request: Request,
    room: &Arc<Room>,
    ctx: &Context,
) {
    let reply_to = request.message.reply.as_deref().unwrap_or_default();
    if !names::is_inbox(reply_to) {
        tracing::warn!(
            verb = verb.name(),
            reply_to,
            "a request whose answer would go to no inbox was dropped"
        );
        return;
    }
    // All of it, for headers may be as long as the payload.
    let share = match room.admit(request.message.length) {
        Ok(share) => share,
        Err(refused) => return respond(intake, verb, &request, Err(refused)).await,
    };
    let (intake, places) = (intake.clone(), room.places.clone());
    ctx.tasks.spawn(async move {
        let place = places.acquire_owned().await;
        let _place = place.expect("the semaphore is never closed");
        handle(&intake, verb, &request).await;
        drop(share);
    });
}

async fn handle(intake: &Arc<Intake>, verb: Verb, request: &Request) {
    let began = Instant::now();
    let span = tracing::info_span!("request", verb = verb.name());
    if let Some(headers) = &request.message.headers {
        spotreel_bus::trace::adopt(&span, headers);
    }
    let answering = verbs::answer(
        intake,
        verb,
        &request.message.payload,
        request.message.headers.as_ref(),
    );
    let answered = guarded(answering).instrument(span).await;
    respond(intake, verb, request, answered).await;
    metrics::request(verb.name(), began.elapsed());
}

async fn respond(
    intake: &Intake,
    verb: Verb,
    request: &Request,
    answered: Result<Vec<u8>, ApiError>,
) {
    let reply = Reply::new(answered, intake.log.client().max_payload());
    let sent = request.respond_with_headers(Ok(reply.body.into()), reply.headers);
    if let Err(error) = sent.await {
        tracing::warn!(%error, verb = verb.name(), "an answer could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_budget_of_bytes() {
        let room = Room::new(2, 8, Arc::new(BytePace::new(64, 9 << 20)));
        let large = 5 << 20;
        let first = room.share(large);
        assert!(first.is_some());
        assert!(
            room.share(large).is_none(),
            "two of them are more than 8 MiB"
        );
        let small: Vec<_> = (0..2 * WAITING - 1).map(|_| room.share(FREE)).collect();
        assert!(small.iter().all(Option::is_some));
        assert!(room.share(0).is_none(), "as many are held as may wait");
        drop((first, small));
        assert!(room.share(large).is_some());
    }
}
