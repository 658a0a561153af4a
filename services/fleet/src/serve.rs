//! The NATS service: three endpoints, each request on a task of its own, so many at a time.

use std::sync::Arc;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, ServiceExt};
use futures::StreamExt;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, names};
use tokio::sync::Semaphore;

use crate::Fleet;
use crate::error::StartError;
use crate::verbs::{self, Verb};

/// Offers the verbs until the program stops.
pub async fn offer(fleet: Arc<Fleet>, client: Client) {
    let stopping = fleet.ctx.stopping.clone();
    let serving = serve(&fleet, &client);
    if let Some(Err(error)) = stopping.run_until_cancelled(serving).await {
        tracing::error!(%error, "fleet answers no requests");
        fleet.conditions.set("requests", Err(error.to_string()));
    }
}

async fn serve(fleet: &Arc<Fleet>, client: &Client) -> Result<(), StartError> {
    let failed = |subject| {
        move |error: async_nats::Error| StartError::Endpoint {
            subject,
            reason: error.to_string(),
        }
    };
    let service = client
        .service_builder()
        .description("machines: what runs, and orders to stop")
        .start("spotreel-fleet", env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed("$SRV"))?;
    let places = Arc::new(Semaphore::new(fleet.config.concurrent_requests));
    let mut listening = Vec::new();
    for verb in Verb::ALL {
        let builder = service.endpoint_builder().name(verb.name());
        let endpoint = builder
            .add(verb.subject())
            .await
            .map_err(failed(verb.subject()))?;
        listening.push(listen(
            endpoint,
            verb,
            client.clone(),
            Arc::clone(fleet),
            Arc::clone(&places),
        ));
    }
    futures::future::join_all(listening).await;
    Ok(())
}

async fn listen(
    mut endpoint: Endpoint,
    verb: Verb,
    client: Client,
    fleet: Arc<Fleet>,
    places: Arc<Semaphore>,
) {
    while let Some(request) = endpoint.next().await {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let answering = Arc::clone(&fleet);
        let client = client.clone();
        fleet.ctx.tasks.spawn(async move {
            let _place = place;
            handle(&answering, &client, verb, &request).await;
        });
    }
}

async fn handle(fleet: &Fleet, client: &Client, verb: Verb, request: &Request) {
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
    let answered = guarded(verbs::answer(fleet, verb, &request.message.payload)).await;
    let reply = Reply::new(answered, client.max_payload());
    let sent = request.respond_with_headers(Ok(reply.body.into()), reply.headers);
    if let Err(error) = sent.await {
        tracing::warn!(%error, verb = verb.name(), "an answer could not be sent");
    }
}
