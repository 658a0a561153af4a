//! The worker: takes tasks from the queue, has an engine render them, and puts the videos in S3.
//!
//! | folder | what |
//! |---|---|
//! | [`task`] | the path of one task, from a work item to the end of its attempt |
//! | `machine` | the instance, its engine process, and when the worker leaves |
//! | `packs` | the pack cache, LoRAs, encoded text |
//! | [`gate`] | the check of a finished video |
//! | [`engine`] | the engine as a child process |
//!
//! **Hears** work items of the task log (one lease at a time, one more while the last video uploads), hints that a
//! task was cancelled, fleet's request to drain, the notices of its machine's cloud, SIGTERM. **Says** `started`,
//! `succeeded`, `attempt_failed`, `failed`, `interrupted` and `lost` by compare-and-set, progress on core NATS, its presence
//! in the workers' bucket. **Owns** a scratch directory and one engine process; nothing in them is needed after a crash.
//!
//! - The sequence of its own `started` event is the fence: after a newer event in the log, the task no longer belongs to
//!   this worker.
//! - A task is acked only after its terminal event is in the log. `succeeded` is written only after the video passed the
//!   gate and is in S3.
//! - It exits with code 0 after an interruption notice, after a drain request, after too long without work and without a
//!   message from fleet, and when it cannot reach NATS. Its supervisor then shuts the instance down. So during an
//!   interruption in the first hour, which is free only if EC2 ends the instance, it hands its task back and waits.
//! - After a kill at any point there are a lease that expires, checkpoints for the next worker, and perhaps a finished
//!   video that the next worker finds.

mod config;
mod crash;
mod deps;
pub mod engine;
mod error;
pub mod gate;
mod machine;
mod metrics;
mod packs;
mod storage;
pub mod task;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::{TaskLog, Uptime};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::WorkerConfig;
pub use deps::Deps;
pub use error::StartError;
pub use worker::Worker;

use crate::machine::cloud::WorkerCloud;
use crate::machine::leave::{By, Leave};
use crate::machine::wellness::Wellness;
use crate::machine::{drain, idle, presence, scratch};
use crate::packs::PackCache;
use crate::task::{interruption, take};

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../worker.toml");

/// What `auto` is on a machine of a cloud: without work, and without the server.
const IDLE_ON_CLOUD: Duration = Duration::from_secs(5 * 60);
const ORPHANED_ON_CLOUD: Duration = Duration::from_secs(10 * 60);

pub async fn start(config: WorkerConfig, deps: Deps, ctx: Context) -> Result<(), StartError> {
    metrics::describe();
    ctx.health.expect("queues");
    ctx.health.expect("engine");
    let Deps {
        nats,
        store,
        cloud,
        remote,
    } = deps;
    let packs = PackCache::of(&config.packs, &config.models, &remote);
    let name = config.effective_name();
    let instance = config.effective_instance(cloud.as_ref().map(|c| c.machine.instance.as_str()));
    let scratch = config.effective_scratch(&name);
    let emptied = scratch::empty(&scratch).await;
    emptied.map_err(|source| StartError::Scratch {
        dir: scratch.clone(),
        source,
    })?;
    let board = presence::PresenceBoard::new(&name, &instance, &config.models);
    let worker = Arc::new(Worker {
        presence: board.clone(),
        leave: Leave::new(board),
        stay: idle::Stay::default(),
        measured: interruption::Measured::default(),
        instance,
        on_cloud: cloud.is_some(),
        name,
        log: TaskLog::open(&nats).await,
        uptime: Uptime::new(nats.clone()),
        wellness: Wellness::new(&scratch, ctx.health.clone()),
        store,
        packs,
        loras: remote,
        scratch,
        config,
    });
    tracing::info!(
        worker = worker.name,
        instance = worker.instance,
        "worker started"
    );
    live(&worker, cloud, nats, &ctx);
    Ok(())
}

/// All that a worker does from its start to its end, each thing by itself.
fn live(worker: &Arc<Worker>, cloud: Option<WorkerCloud>, nats: Client, ctx: &Context) {
    let (board, leave) = (&worker.presence, &worker.leave);
    let (idle, is_cloud) = (&worker.config.idle, cloud.is_some());
    let idle_limit = idle.exit_after.effective(is_cloud, IDLE_ON_CLOUD);
    let orphan_limit = idle.orphan_after.effective(is_cloud, ORPHANED_ON_CLOUD);
    let stopping = || ctx.stopping.clone();
    if let Some(cloud) = cloud {
        board.update(|presence| cloud.machine.describe_to(presence));
        let every = worker.config.cloud.poll;
        ctx.tasks
            .spawn(cloud.watch(every, board.clone(), leave.clone(), stopping()));
    }
    let (watching, until) = (Arc::clone(worker), stopping());
    ctx.tasks.spawn(async move {
        watching.wellness.watch_store(&watching.store, &until).await;
    });
    let (watching, until) = (Arc::clone(worker), stopping());
    ctx.tasks.spawn(async move {
        watching.watch_room(&until).await;
    });
    ctx.tasks.spawn(idle::watch_server(
        nats.clone(),
        orphan_limit,
        leave.clone(),
        stopping(),
    ));
    let stay = worker.stay.clone();
    ctx.tasks
        .spawn(stay.listen(nats.clone(), worker.instance.clone(), stopping()));
    if let Some(cache) = worker.packs.clone() {
        ctx.health.expect("packs");
        let leaving = worker.leave.leaving().clone();
        ctx.tasks.spawn(cache.keep(ctx.health.clone(), leaving));
    }
    let (listening, listens) = oneshot::channel();
    ctx.tasks.spawn(drain::listen(
        nats.clone(),
        worker.instance.clone(),
        board.clone(),
        leave.clone(),
        ctx.clone(),
        listening,
    ));
    // The presence outlives the signal: it says what is still in hand.
    let ended = CancellationToken::new();
    ctx.tasks.spawn(board.clone().announce(nats, ended.clone()));
    ctx.tasks.spawn(obey_signals(
        leave.clone(),
        worker.config.stop.finish_within,
        stopping(),
        ended.clone(),
    ));
    let (worker, ctx_inside) = (Arc::clone(worker), ctx.clone());
    ctx.spawn("render", async move {
        let ended = ended.drop_guard();
        let sources = take::open_queues(&worker, &ctx_inside).await;
        // Known before the first task is taken.
        worker.look_for_room().await;
        // An error means that the listener ended: the worker is told to stop.
        let _ = listens.await;
        let take = take::Take::new(sources, idle_limit, Arc::clone(&worker));
        let leave = worker.leave.clone();
        Box::pin(task::run(worker, take, ctx_inside.clone())).await?;
        leave.until_taken(&ctx_inside.stopping).await;
        drop(ended);
        // Whoever gave the order to leave: the program ends as one that was told to.
        ctx_inside.stopping.cancel();
        Ok(())
    });
}

async fn obey_signals(
    leave: Leave,
    within: Duration,
    stopping: CancellationToken,
    ended: CancellationToken,
) {
    tokio::select! {
        biased;
        () = ended.cancelled() => {}
        () = stopping.cancelled() => leave.order(By::Signal(Instant::now() + within), "told to stop"),
    }
}
