//! Webhooks: sends public events to endpoints that operators name, and the end of a task to its own `callback_url`.
//!
//! **Hears** EVENTS, by one durable consumer for each endpoint (`webhook-<id>`) and one for all callbacks (`callbacks`). A
//! consumer is the queue: an event is queued for an endpoint in the moment in which it is stored in EVENTS, and leaves the
//! queue by the ack that follows its delivery. So there is nothing between "published" and "queued" that a crash could lose.
//!
//! **Answers** `spotreel.ops.webhook.*`. **Owns** the buckets `spotreel-webhooks` (endpoints and secrets) and
//! `spotreel-deliveries` (the log), and the consumers of endpoints. **Says** `spotreel.webhook.<id>.failing` and `.disabled`.
//!
//! Invariants:
//! - An event leaves a queue only after its receiver has answered 2xx, after the last of its tries, or if the endpoint wants
//!   the events of another owner.
//! - What came of a try is written to the log before the event is acked or put off, so that the number of tries and the time of
//!   the next one survive every crash. The server's own count of deliveries is used for nothing.
//! - An event is sent twice only if a crash, or a lost answer, came between a receiver's 2xx and the line in the log. Both
//!   have the same `webhook-id`.
//! - Receivers share nothing: each endpoint has a queue, a bound and a [`Gate`](spotreel_domain::webhook::Gate) of its own, and
//!   so has each host of a `callback_url`, but for the queue.
//! - No request goes to an address that is not public, unless an operator has allowed its host; `spotreel-webhook` says how.

mod callbacks;
mod deliver;
mod deliveries;
mod endpoints;
mod event;
mod health;
mod metrics;
mod queue;
mod verbs;

use std::sync::Arc;

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::events::EventStream;
use spotreel_bus::{Room, Service, Webhooks, names};
use spotreel_s3::Store;
use spotreel_webhook::Sender;

use crate::config::NotifierConfig;
use crate::error::StartError;

use deliver::Deliverer;
use endpoints::Endpoints;
use verbs::Orders;

/// Operators give orders; more than this at a time wait.
const ORDERS_AT_ONCE: usize = 8;
const ORDERS_MEMORY_MIB: usize = 16;

/// Starts the deliveries and offers the orders.
pub async fn start(
    nats: &Client,
    store: &Store,
    config: &NotifierConfig,
    ctx: &Context,
) -> Result<(), StartError> {
    metrics::describe();
    let settings = config.webhooks.clone();
    let deliverer = Arc::new(Deliverer {
        nats: nats.clone(),
        webhooks: Webhooks::new(nats),
        events: EventStream::open(nats).await,
        sender: Sender::new(settings.allow_hosts.clone(), settings.deadline)?,
        store: store.clone(),
        link_expires: config.link_expires,
        settings,
    });
    ctx.health.expect(endpoints::CHECK);
    let endpoints = Endpoints::new(Arc::clone(&deliverer), ctx.clone());
    ctx.spawn_loop("webhooks", endpoints.keep());
    ctx.health.expect(callbacks::CHECK);
    let callbacks = callbacks::run(Arc::clone(&deliverer), ctx.clone());
    ctx.spawn_loop("callbacks", callbacks);
    let orders = Arc::new(Orders { deliverer });
    let offered = verbs(&orders).offer(nats).await?;
    let (stopping, tasks) = (ctx.stopping.clone(), ctx.tasks.clone());
    ctx.spawn("orders", async move {
        Ok(offered.answer(&stopping, &tasks).await?)
    });
    Ok(())
}

fn verbs(orders: &Arc<Orders>) -> Service<Orders> {
    let description = "webhooks: endpoints, deliveries, secrets";
    let room = Room::new(ORDERS_AT_ONCE, ORDERS_MEMORY_MIB);
    Service::new("notifier", description, orders, room)
        .verb("create-webhook", names::OPS_WEBHOOK_CREATE, Orders::create)
        .verb("list-webhooks", names::OPS_WEBHOOK_LIST, Orders::list)
        .verb("enable-webhook", names::OPS_WEBHOOK_ENABLE, Orders::enable)
        .verb(
            "disable-webhook",
            names::OPS_WEBHOOK_DISABLE,
            Orders::disable,
        )
        .verb("delete-webhook", names::OPS_WEBHOOK_DELETE, Orders::delete)
        .verb("rotate-webhook", names::OPS_WEBHOOK_ROTATE, Orders::rotate)
        .verb("callback-secret", names::OPS_WEBHOOK_SECRET, Orders::secret)
        .verb(
            "deliveries",
            names::OPS_WEBHOOK_DELIVERIES,
            Orders::deliveries,
        )
        .verb("resend", names::OPS_WEBHOOK_RESEND, Orders::resend)
        .verb("recover", names::OPS_WEBHOOK_RECOVER, Orders::recover)
}
