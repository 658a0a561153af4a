//! `spotreel-notifier`: the task log and the batch log told to clients.
//!
//! **Hears** every event of the two logs, each in its order, by the durable consumer `notifier` of each.
//!
//! **Says** each as a CloudEvent in JSON on `spotreel.task.<id>.<event>` or `spotreel.batch.<id>.<event>` in the stream
//! EVENTS. A task's success carries the video's S3 key, and a link with its expiry; a batch's end its receipt.
//!
//! **Owns** nothing: what was said stands in EVENTS, what is still to be said is what the consumer has not acked.
//!
//! Invariants:
//! - A consumer hands out one message at a time, so events leave in the order of their log, however many notifiers run.
//! - Each event is written once: only if the newest public event of its task or batch tells of an older log event, by
//!   compare-and-set. A second `started` or `failed`, of a later attempt or round, is an event of its own.
//! - Nothing is skipped. What fails is tried for ever, and the events behind it wait; an event of a newer
//!   version waits until notifier is upgraded. The one exception is a message that is no protobuf, which nobody can read.
//!
//! **After a crash** the message in hand comes back once its lease ends (5 s). If it had been published already, the
//! newest public event says so and it is only acked.

mod act;
mod config;
mod error;
mod metrics;

use spotreel_bootstrap::Context;
use spotreel_s3::Store;

pub use act::{Entry, Log, Notifier, Said};
pub use config::NotifierConfig;
pub use error::NotifyError;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../notifier.toml");

pub async fn start(config: NotifierConfig, ctx: Context) -> anyhow::Result<()> {
    metrics::describe();
    let client = spotreel_bus::connect(&config.nats, "notifier", true).await?;
    let store = Store::connect(&config.s3).await;
    let notifier = Notifier::new(&client, store, config).await;
    let (health, stopping) = (ctx.health.clone(), ctx.stopping.clone());
    notifier.announce(&health);
    ctx.spawn("notifier", async move {
        notifier.run(&health, &stopping).await;
        Ok(())
    });
    Ok(())
}
