//! The NATS service: an endpoint for each verb, each request on a task of its own, so many at a time.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures::{FutureExt, StreamExt};
use spotreel_bootstrap::Context;
use spotreel_bus::names;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::error::StartError;
use crate::metrics;
use crate::submit::Intake;
use crate::verbs::{self, Verb};

/// Offers the verbs. The service answers `nats micro` for as long as it is held.
pub async fn offer(
    intake: &Arc<Intake>,
    client: &Client,
    ctx: &Context,
    at_once: usize,
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
    let places = Arc::new(Semaphore::new(at_once));
    for verb in Verb::ALL {
        let builder = service.endpoint_builder().name(verb.name());
        let endpoint = builder
            .add(verb.subject())
            .await
            .map_err(failed(verb.subject()))?;
        ctx.spawn(
            verb.name(),
            listen(endpoint, verb, intake.clone(), places.clone(), ctx.clone()),
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
    places: Arc<Semaphore>,
    ctx: Context,
) -> anyhow::Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            () = ctx.stopping.cancelled() => break,
            next = endpoint.next() => next,
        };
        let Some(request) = next else { break };
        hand_over(&intake, verb, request, &places, &ctx).await;
    }
    // What has arrived is answered; what comes now goes to another intake.
    while let Some(Some(request)) = endpoint.next().now_or_never() {
        hand_over(&intake, verb, request, &places, &ctx).await;
    }
    endpoint.stop().await?;
    Ok(())
}

async fn hand_over(
    intake: &Arc<Intake>,
    verb: Verb,
    request: Request,
    places: &Arc<Semaphore>,
    ctx: &Context,
) {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let intake = intake.clone();
    ctx.tasks.spawn(async move {
        let _place = place;
        handle(&intake, verb, &request).await;
    });
}

async fn handle(intake: &Arc<Intake>, verb: Verb, request: &Request) {
    let reply_to = request.message.reply.as_deref().unwrap_or_default();
    if !names::is_inbox(reply_to) {
        tracing::warn!(
            verb = verb.name(),
            reply_to,
            "a request whose answer would go to no inbox was dropped"
        );
        return;
    }
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
    let reply = answering.instrument(span).await;
    if let Err(error) = request
        .respond_with_headers(Ok(reply.body.into()), reply.headers)
        .await
    {
        tracing::warn!(%error, verb = verb.name(), "an answer could not be sent");
    }
    metrics::request(verb.name(), began.elapsed());
}
