//! The NATS service: an endpoint for each verb, each request on a task of its own and in bounded number.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures::{FutureExt, StreamExt};
use spotreel_bootstrap::Context;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, Room, names};
use spotreel_domain::api::ApiError;
use tracing::Instrument;

use crate::error::StartError;
use crate::metrics;
use crate::pace::BytePace;
use crate::submit::Intake;
use crate::verbs::{self, Verb};

/// What a request must pass before anything of it is read.
struct Admission {
    room: Room,
    pace: Arc<BytePace>,
}

/// Offers the verbs. The service answers `nats micro` for as long as it is held.
pub async fn offer(
    intake: &Arc<Intake>,
    client: &Client,
    ctx: &Context,
    room: Room,
    pace: Arc<BytePace>,
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
    let admission = Arc::new(Admission { room, pace });
    for verb in Verb::ALL {
        let builder = service.endpoint_builder().name(verb.name());
        let endpoint = builder
            .add(verb.subject())
            .await
            .map_err(failed(verb.subject()))?;
        ctx.spawn(
            verb.name(),
            listen(
                endpoint,
                verb,
                intake.clone(),
                admission.clone(),
                ctx.clone(),
            ),
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
    admission: Arc<Admission>,
    ctx: Context,
) -> anyhow::Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            () = ctx.stopping.cancelled() => break,
            next = endpoint.next() => next,
        };
        let Some(request) = next else { break };
        hand_over(&intake, verb, request, &admission, &ctx).await;
    }
    // What has arrived is answered; what comes now goes to another intake.
    while let Some(Some(request)) = endpoint.next().now_or_never() {
        hand_over(&intake, verb, request, &admission, &ctx).await;
    }
    endpoint.stop().await?;
    Ok(())
}

async fn hand_over(
    intake: &Arc<Intake>,
    verb: Verb,
    request: Request,
    admission: &Admission,
    ctx: &Context,
) {
    let reply_to = request.message.reply.as_deref().unwrap_or_default();
    if !names::is_inbox(reply_to) {
        tracing::warn!(
            verb = verb.name(),
            reply_to,
            "request dropped: its reply subject is not an inbox"
        );
        return;
    }
    // All of it, for headers may be as long as the payload.
    let bytes = request.message.length;
    let admitted = admission.room.admit(bytes).and_then(|share| {
        admission.pace.check(bytes)?;
        Ok(share)
    });
    let share = match admitted {
        Ok(share) => share,
        Err(refused) => return respond(intake, verb, &request, Err(refused)).await,
    };
    let intake = intake.clone();
    ctx.tasks.spawn(async move {
        let _place = share.enter().await;
        handle(&intake, verb, &request).await;
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
    let answered = guarded(Box::pin(answering)).instrument(span).await;
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
        tracing::warn!(%error, verb = verb.name(), "answer could not be sent");
    }
}
