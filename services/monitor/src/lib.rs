//! `spotreel-monitor`: keeps the task log correct and small, and measures it.
//!
//! | loop | input, from a durable consumer of its name | does |
//! |---|---|---|
//! | [`sweeper`](sweeper::Sweeper) | every terminal event, every `queued` | deletes obsolete work items; renews its status record when none is left |
//! | [`janitor`](janitor::Janitor) | every terminal event | deletes early events, checkpoints, and videos that no state names |
//! | [`removal`] | none: periodic | deletes old finished tasks, and the oldest ones while the log is too full |
//! | [`net`](net::Net) | none: periodic | queues a task again if its work item is gone; deletes early events of unfinished tasks |
//! | [`ledger::recorder`] | every event but `queued` | stores each attempt in the stream LEDGER |
//! | [`ledger::closer`] | none: periodic | stores the ledger of each batch that has ended |
//! | [`deadlines`](deadlines::Deadlines) | every `queued` | writes `expired` after the deadline |
//! | `search` | the task log and the ends of batches, page by page, from where its file is | keeps a row for each task, removes the rows of deleted ones |
//! | [`reconcile`] | none: periodic | measures consumers, queues, the log and the disk; not ready while the clients' copy of EVENTS is behind |
//! | [`alarms`] | none: periodic | decides which alarms fire, and tells clients |
//!
//! **Answers** `spotreel.search`, `.alarms`, `.receipt` and `.costs` (a NATS service).
//!
//! **Says** `spotreel.log.<id>.expired`, `spotreel.log.<id>.queued.<model>.<lane>`, `spotreel.hint.<id>`,
//! `spotreel.alarm.<name>.<state>`, the status records `sweeper` and `alarms`, and all of LEDGER.
//!
//! **Owns** the deletion of history: only monitor deletes events, and objects of finished tasks.
//!
//! Invariants:
//! - The work item of a runnable task is never deleted: a later event must name it as obsolete.
//! - An unfinished task has a work item that its queue will deliver; a missing one is replaced within two minutes.
//! - A task's last event is deleted last, when it is old or its room is needed, so that the state never falls back to an earlier one.
//! - An object that the task's last event names is never deleted; other objects only while that event is the last.
//! - An event that tells of an attempt is deleted only after the attempt is stored in LEDGER.
//! - When no worker works, the queue lengths equal the number of runnable tasks, within seconds.
//! - An alarm is told once when it fires and once when it resolves: its state is stored before it is told, and its event has
//!   the number of that state.
//! - An event of a newer version is never acked: monitor is not ready until it is upgraded. Only a message that is not
//!   protobuf is skipped.
//!
//! **After a crash** events in hand are delivered again after their lease, and decided again from the log. Every step is
//! safe to run twice. Any number of monitors may run, each with a search file of its own; a lost file is built anew from the log.

mod alarms;
mod config;
mod consume;
mod crash;
pub mod deadlines;
mod deps;
mod disk;
mod error;
pub mod janitor;
pub mod ledger;
mod metrics;
mod mirror;
pub mod net;
mod pages;
pub mod reconcile;
pub mod removal;
mod search;
mod serve;
pub mod sweeper;
mod verbs;

use std::sync::Arc;

use spotreel_bootstrap::Context;
use spotreel_bus::ledger::LedgerStream;
use spotreel_bus::{BatchLog, TaskLog};

pub use config::MonitorConfig;
pub use consume::Handled;
pub use crash::POINTS as CRASH_POINTS;
pub use deps::Deps;
pub use error::{AlarmError, HandleError, StartError};

use alarms::{Alarms, ShownAlarms};
use deadlines::Deadlines;
use janitor::Janitor;
use ledger::books::Books;
use ledger::closer::Closer;
use ledger::recorder::{self, Recorder};
use net::Net;
use reconcile::Reconcile;
use search::Search;
use sweeper::Sweeper;
use verbs::Requests;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../monitor.toml");

pub async fn start(config: MonitorConfig, deps: Deps, ctx: Context) -> Result<(), StartError> {
    metrics::describe();
    let Deps { nats, store } = deps;
    let log = TaskLog::open(&nats).await;
    let consumer =
        |name, concurrent| consume::consumer(&nats, name, concurrent, &config.inbox, &ctx);

    let sweeper = Arc::new(Sweeper::new(log.clone()));
    let events = consumer(sweeper::CONSUMER, config.sweeper.concurrent);
    ctx.spawn_loop("sweeper", async move {
        events.run(|event| Arc::clone(&sweeper).handle(event)).await;
    });
    let every = config.sweeper.mark_every;
    let (health, stopping) = (ctx.health.clone(), ctx.stopping.clone());
    let mark = sweeper::mark(nats.clone(), every, health, stopping);
    ctx.spawn_loop("sweeper's mark", mark);

    let retry_after = config.inbox.retry_after;
    let janitor = Janitor::new(log.clone(), store, config.janitor.clone(), retry_after);
    let janitor = Arc::new(janitor);
    let removal = Arc::clone(&janitor).remove(ctx.stopping.clone());
    ctx.spawn_loop("removal", removal);
    let net = Net::new(log.clone(), config.net.clone());
    let (trimmer, stopping) = (Arc::clone(&janitor), ctx.stopping.clone());
    ctx.spawn_loop("net", async move { net.run(&trimmer, stopping).await });
    let events = consumer(janitor::CONSUMER, config.janitor.concurrent);
    ctx.spawn_loop("janitor", async move {
        events.run(|event| Arc::clone(&janitor).handle(event)).await;
    });

    let stream = LedgerStream::new(&nats);
    let recorder = Arc::new(Recorder::new(stream.clone()));
    let events = consumer(recorder::CONSUMER, config.ledger.concurrent);
    ctx.spawn_loop("ledger's attempts", async move {
        events
            .run(|event| Arc::clone(&recorder).handle(event))
            .await;
    });
    let books = Arc::new(Books::new(BatchLog::open(&nats).await, stream));
    let (health, stopping) = (ctx.health.clone(), ctx.stopping.clone());
    let closing = Closer::new(&nats, &books).run(config.ledger.every, health, stopping);
    ctx.spawn_loop("ledgers of batches", closing);

    let deadlines = Arc::new(Deadlines::new(log.clone(), config.deadlines.clone()));
    let events = consumer(deadlines::CONSUMER, config.deadlines.concurrent);
    ctx.spawn_loop("deadlines", async move {
        events
            .run(|event| Arc::clone(&deadlines).handle(event))
            .await;
    });

    let reconcile = Reconcile::new(nats.clone(), config.reconcile, config.disk, &ctx);
    ctx.spawn_loop("reconcile", async move { reconcile.run().await });

    let (shown, alarms_every) = (ShownAlarms::default(), config.alarms.every);
    let alarms = Alarms::new(&nats, config.alarms, &ctx, shown.clone()).await;
    ctx.spawn_loop("alarms", alarms.run());

    let requests = Arc::new(Requests {
        alarms: shown,
        alarms_every,
        log,
        books,
        search: Search::start(&nats, &config.search, &ctx).await?,
    });
    let offered = serve::verbs(&requests).offer(&nats).await?;
    let (stopping, tasks) = (ctx.stopping.clone(), ctx.tasks.clone());
    ctx.spawn("requests", async move {
        Ok(offered.answer(&stopping, &tasks).await?)
    });
    Ok(())
}
