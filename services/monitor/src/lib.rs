//! `spotreel-monitor`: keeps the task log correct and small, and measures it.
//!
//! | loop | input, from a durable consumer of its name | does |
//! |---|---|---|
//! | [`sweeper`](sweeper::Sweeper) | every terminal event, every `queued` | deletes obsolete work items; renews its status record when none is left |
//! | [`janitor`](janitor::Janitor) | every terminal event | deletes early events, checkpoints, and videos that no state names |
//! | [`room`] | none: periodic | deletes old finished tasks, and the oldest ones while the log is too full |
//! | [`net`](net::Net) | none: periodic | queues a task again if its work item is gone; deletes early events of unfinished tasks |
//! | [`deadlines`](deadlines::Deadlines) | every `queued` | writes `expired` after the deadline |
//! | [`reconcile`] | none: periodic | measures consumers, queues, the log and the disk; not ready while the clients' copy of EVENTS is behind |
//!
//! **Says** `spotreel.log.<id>.expired`, `spotreel.log.<id>.queued.<model>.<lane>`, `spotreel.hint.<id>`, and the status record `sweeper`.
//!
//! **Owns** the deletion of history: only monitor deletes events, and objects of finished tasks.
//!
//! Invariants:
//! - The work item of a runnable task is never deleted: a later event must name it as obsolete.
//! - An unfinished task has a work item that its queue will deliver; a missing one is replaced within two minutes.
//! - A task's last event is deleted last, when it is old or its room is needed, so that the state never falls back to an earlier one.
//! - An object that the task's last event names is never deleted; other objects only while that event is the last.
//! - When no worker works, the queue lengths equal the number of runnable tasks, within seconds.
//! - An event of a newer version is never acked: monitor is not ready until it is upgraded. Only a message that is not
//!   protobuf is skipped.
//!
//! **After a crash** events in hand are delivered again after their lease, and decided again from the log. Every step is
//! safe to run twice. Any number of monitors may run.

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
