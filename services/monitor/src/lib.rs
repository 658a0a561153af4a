//! `spotreel-monitor`: keeps the task log true and small, and measures it.
//!
//! | loop | hears, by a durable consumer of its name | does |
//! |---|---|---|
//! | [`sweeper`](sweeper::Sweeper) | every end of a task, every `queued` | deletes the work item that ended; marks when none is left |
//! | [`janitor`](janitor::Janitor) | every end of a task | drops its early events, its checkpoints, the videos that no state names |
//! | [`room`] | nothing: it looks | removes finished tasks that are old, and the oldest while the log is too full |
//! | [`net`](net::Net) | nothing: it looks | queues a task again whose work item is gone; drops the early events of one that goes on |
//! | [`deadlines`](deadlines::Deadlines) | every `queued` | says `expired` when the deadline has come |
//! | [`reconcile`] | nothing: it looks | gauges of every consumer, every queue, the log's room and the disk's; not ready while the clients' copy of EVENTS does not follow |
//!
//! **Says** `spotreel.log.<id>.expired`, `spotreel.log.<id>.queued.<model>.<lane>`, `spotreel.hint.<id>`, and the mark `sweeper`.
//!
//! **Owns** the removal of history: nobody else deletes events, and nobody else deletes objects of finished tasks.
//!
//! Invariants:
//! - The work item of a runnable task is never deleted: what is deleted is named by an event after which it is none.
//! - A task that has not ended has a work item that its queue will deliver, within two minutes whatever took it away.
//! - A task's last event stays until it is old, or its room needed, and alone, so that its state never falls back to an earlier one.
//! - An object that the task's last event names is never deleted; others only while that event is the task's last.
//! - With nobody working, the length of the queues is the number of runnable tasks, within seconds.
//! - An event that a newer version wrote is never acked: monitor is not ready until it is upgraded. Only a message that is
//!   no protobuf is passed over.
//!
//! **After a crash** whatever was in hand comes back once its lease ends, and is decided anew from the log. Every step
//! can be done twice. Any number of monitors may run.

mod config;
pub mod deadlines;
mod disk;
mod error;
mod inbox;
pub mod janitor;
mod metrics;
mod mirror;
pub mod net;
mod pages;
pub mod reconcile;
pub mod room;
pub mod sweeper;

use std::sync::Arc;

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::TaskLog;
use spotreel_s3::Store;

pub use config::MonitorConfig;
pub use error::ActError;
pub use inbox::Verdict;

use deadlines::Deadlines;
use inbox::Inbox;
use janitor::Janitor;
use net::Net;
use reconcile::Reconcile;
use sweeper::Sweeper;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../monitor.toml");

pub async fn start(config: MonitorConfig, ctx: Context) -> anyhow::Result<()> {
    metrics::describe();
    let client = spotreel_bus::connect(&config.nats, "monitor", true).await?;
    let store = Store::connect(&config.s3).await;
    start_with(config, ctx, client, store).await;
    Ok(())
}

/// As [`start`], over connections that are made already.
pub async fn start_with(config: MonitorConfig, ctx: Context, client: Client, store: Store) {
    let log = TaskLog::open(&client).await;
    let inbox =
        |consumer, concurrent| Inbox::new(&client, consumer, concurrent, &config.inbox, &ctx);

    let sweeper = Arc::new(Sweeper::new(log.clone()));
    let events = inbox(sweeper::CONSUMER, config.sweeper.concurrent);
    ctx.spawn("sweeper", async move {
        events.serve(|event| Arc::clone(&sweeper).hear(event)).await;
        Ok(())
    });
    let mark = sweeper::mark(
        client.clone(),
        config.sweeper.mark_every,
        ctx.health.clone(),
        ctx.stopping.clone(),
    );
    ctx.spawn("sweeper's mark", async move {
        mark.await;
        Ok(())
    });

    let janitor = Arc::new(Janitor::new(
        log.clone(),
        store,
        config.janitor.clone(),
        config.inbox.retry_after,
    ));
    let events = inbox(janitor::CONSUMER, config.janitor.concurrent);
    let removal = Arc::clone(&janitor).remove(ctx.stopping.clone());
    let net = Net::new(log.clone(), config.net.clone());
    let (trimmer, stopping) = (Arc::clone(&janitor), ctx.stopping.clone());
    ctx.spawn("net", async move {
        net.run(&trimmer, stopping).await;
        Ok(())
    });
    ctx.spawn("janitor", async move {
        events.serve(|event| Arc::clone(&janitor).hear(event)).await;
        Ok(())
    });
    ctx.spawn("removal", async move {
        removal.await;
        Ok(())
    });

    let deadlines = Arc::new(Deadlines::new(log, config.deadlines.clone()));
    let events = inbox(deadlines::CONSUMER, config.deadlines.concurrent);
    ctx.spawn("deadlines", async move {
        events
            .serve(|event| Arc::clone(&deadlines).hear(event))
            .await;
        Ok(())
    });

    let reconcile = Reconcile::new(client, config.reconcile, config.disk, &ctx);
    ctx.spawn("reconcile", async move {
        reconcile.run().await;
        Ok(())
    });
}
