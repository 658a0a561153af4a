//! The NATS service: five endpoints, each request on a task of its own and in bounded number.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures::StreamExt;
use spotreel_bootstrap::Context;
use spotreel_bus::reply::guarded;
use spotreel_bus::{Reply, Room, names};

use spotreel_domain::api::ApiError;

use crate::error::StartError;
use crate::metrics;
use crate::verbs::{Desk, Verb};

/// People and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 64;
/// Of those that are large: a quote may bear a picture.
const MEMORY_MIB: usize = 64;

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
    let room = Arc::new(Room::new(AT_ONCE, MEMORY_MIB));
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
            room.clone(),
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
    room: Arc<Room>,
    ctx: Context,
) -> anyhow::Result<()> {
    while let Some(Some(request)) = ctx.stopping.run_until_cancelled(endpoint.next()).await {
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
        let (client, desk) = (client.clone(), desk.clone());
        ctx.tasks.spawn(async move {
            let _place = share.enter().await;
            handle(&desk, &client, verb, &request).await;
        });
    }
    endpoint.stop().await?;
    Ok(())
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

async fn handle(desk: &Desk, client: &Client, verb: Verb, request: &Request) {
    let began = Instant::now();
    let answered = guarded(Box::pin(desk.answer(verb, &request.message.payload))).await;
    respond(client, verb, request, answered).await;
    metrics::answered(verb.name(), began.elapsed());
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
