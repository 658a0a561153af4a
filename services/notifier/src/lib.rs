//! `spotreel-notifier`: publishes the events of the task log and the batch log to clients.
//!
//! **Hears** every event of the two logs by the durable consumer `notifier` of each.
//!
//! **Says** each as a CloudEvent in JSON on `spotreel.task.<id>.<event>` or `spotreel.batch.<id>.<event>` in the stream
//! EVENTS. A task's success carries the video's S3 key, and a link with its expiry; a batch's end its receipt.
//!
//! **Delivers** them to webhooks ([`webhook`]), by consumers of EVENTS.
//!
//! It also watches monitor ([`silence`]): if its record of the alarms is old, notifier says
//! `spotreel.alarm.service_silent.firing` in its place.
//!
//! **Owns** no data: published events are in EVENTS, and the consumer has the others, unacked.
//!
//! Invariants:
//! - The events of a task leave in the order of its log, however many notifiers run: an event waits until all earlier ones
//!   of its task are published. Those of different tasks are published together, with one write. The events of a batch
//!   come one at a time: its consumer hands out the next after the ack of the one before.
//! - Each event is written once: only if the newest public event of its task or batch tells of an older log event, by
//!   compare-and-set. A second `started` or `failed`, of a later attempt or round, is an event of its own.
//! - No event is skipped. A failed one is tried again for ever, and later events of its task wait; an event of a newer
//!   version waits until notifier is upgraded. The only exception is a message that is not protobuf, which no program can
//!   read.
//!
//! **After a crash** the messages in hand are delivered again after their lease (5 s). If one was already published, the
//! newest public event shows that, and the message is only acked.

mod act;
mod config;
mod consume;
mod deps;
mod error;
mod group;
mod metrics;
mod silence;
mod webhook;

use std::sync::Arc;

use spotreel_bootstrap::Context;

pub use act::{Notifier, Said};
pub use config::{NotifierConfig, WebhooksConfig};
pub use deps::Deps;
pub use error::{NotifyError, StartError};

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../notifier.toml");

pub async fn start(config: NotifierConfig, deps: Deps, ctx: Context) -> Result<(), StartError> {
    metrics::describe();
    let watching = silence::watch(
        deps.nats.clone(),
        config.monitor_silence.clone(),
        ctx.stopping.clone(),
    );
    ctx.spawn_loop("monitor's silence", watching);
    webhook::start(&deps.nats, &deps.store, &config, &ctx).await?;
    let notifier = Arc::new(Notifier::new(&deps.nats, deps.store, config).await);
    let (health, stopping) = (ctx.health.clone(), ctx.stopping.clone());
    notifier.announce(&health);
    ctx.spawn_loop("notifier", async move {
        notifier.run(&health, &stopping).await;
    });
    Ok(())
}
