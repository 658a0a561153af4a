//! The NATS service: five endpoints, each request on a task of its own, so many at a time.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures::StreamExt;
use spotreel_bootstrap::Context;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, names};
use tokio::sync::Semaphore;

use crate::error::StartError;
use crate::metrics;
use crate::verbs::{Desk, Verb};

/// People and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 64;

/// Offers the verbs. The service answers `nats micro` for as long as it is held.
pub async fn offer(
    desk: &Arc<Desk>,
    client: &Client,
    ctx: &Context,
) -> Result<Service, StartError> {
    let failed = |subject| {
        move |error: async_nats::Error| StartError::Endpoint {
            subject,
            reason: error.to_string(),
        }
    };
    let service = client
        .service_builder()
        .description("when batches run and why, and orders to run or to hold them")
        .start("spotreel-trigger", env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed("$SRV"))?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    for verb in Verb::ALL {
        let builder = service.endpoint_builder().name(verb.name());
        let endpoint = builder
            .add(verb.subject())
            .await
            .map_err(failed(verb.subject()))?;
        let listening = listen(
            endpoint,
            verb,
            client.clone(),
            desk.clone(),
            places.clone(),
            ctx.clone(),
        );
        ctx.spawn(verb.name(), listening);
    }
    Ok(service)
}

async fn listen(
    mut endpoint: Endpoint,
    verb: Verb,
    client: Client,
    desk: Arc<Desk>,
    places: Arc<Semaphore>,
    ctx: Context,
) -> anyhow::Result<()> {
    while let Some(Some(request)) = ctx.stopping.run_until_cancelled(endpoint.next()).await {
        let place = places.clone().acquire_owned().await?;
        let (client, desk) = (client.clone(), desk.clone());
        ctx.tasks.spawn(async move {
            handle(&desk, &client, verb, &request).await;
            drop(place);
        });
    }
    endpoint.stop().await?;
    Ok(())
}

async fn handle(desk: &Desk, client: &Client, verb: Verb, request: &Request) {
    let reply_to = request.message.reply.as_deref().unwrap_or_default();
    if !names::is_inbox(reply_to) {
        let verb = verb.name();
        tracing::warn!(
            verb,
            reply_to,
            "a request whose answer would go to no inbox was dropped"
        );
        return;
    }
    let began = Instant::now();
    let answered = guarded(desk.answer(verb, &request.message.payload)).await;
    let reply = Reply::new(answered, client.max_payload());
    let sent = request.respond_with_headers(Ok(reply.body.into()), reply.headers);
    if let Err(error) = sent.await {
        tracing::warn!(%error, verb = verb.name(), "an answer could not be sent");
    }
    metrics::answered(verb.name(), began.elapsed());
}
