//! The NATS service: three endpoints, each request on a task of its own and in bounded number.

use std::sync::Arc;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, ServiceExt};
use futures::StreamExt;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, Room, names};

use spotreel_domain::api::ApiError;

use crate::Fleet;
use crate::error::StartError;
use crate::verbs::{self, Verb};

/// Memory for large requests, none of which is a good one: twice what one message may have.
const MEMORY_MIB: usize = 18;

/// Offers the verbs until the program stops.
pub async fn offer(fleet: Arc<Fleet>, client: Client) {
    let stopping = fleet.ctx.stopping.clone();
    let serving = serve(&fleet, &client);
    if let Some(Err(error)) = stopping.run_until_cancelled(serving).await {
        tracing::error!(%error, "request endpoints could not be created");
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
    let room = Arc::new(Room::new(fleet.config.concurrent_requests, MEMORY_MIB));
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
            Arc::clone(&room),
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
    room: Arc<Room>,
) {
    while let Some(request) = endpoint.next().await {
        if !is_answerable(verb, &request) {
            continue;
        }
        let share = match room.admit(request.message.length) {
            Ok(share) => share,
            Err(refused) => {
                respond(&client, verb, &request, Err(refused)).await;
                continue;
            }
        };
        let answering = Arc::clone(&fleet);
        let client = client.clone();
        fleet.ctx.tasks.spawn(async move {
            let _place = share.enter().await;
            handle(&answering, &client, verb, &request).await;
        });
    }
}

fn is_answerable(verb: Verb, request: &Request) -> bool {
    let reply_to = request.message.reply.as_deref().unwrap_or_default();
    if !names::is_inbox(reply_to) {
        let verb = verb.name();
        tracing::warn!(
            verb,
            reply_to,
            "request dropped: its reply subject is not an inbox"
        );
        return false;
    }
    true
}

async fn handle(fleet: &Fleet, client: &Client, verb: Verb, request: &Request) {
    let answered = guarded(Box::pin(verbs::answer(
        fleet,
        verb,
        &request.message.payload,
    )))
    .await;
    respond(client, verb, request, answered).await;
}

async fn respond(
    client: &Client,
    verb: Verb,
    request: &Request,
    answered: Result<Vec<u8>, ApiError>,
) {
    let reply = Reply::new(answered, client.max_payload());
    let sent = request.respond_with_headers(Ok(reply.body.into()), reply.headers);
    if let Err(error) = sent.await {
        tracing::warn!(%error, verb = verb.name(), "answer could not be sent");
    }
}
