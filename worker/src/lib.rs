//! The worker: takes tasks from the queue, has an engine render them, and puts the videos in S3.
//!
//! **Hears** work items of the task log (one lease at a time, one more while the last video uploads), hints that a
//! task was cancelled, SIGTERM. **Says** `started`, `succeeded`, `attempt_failed`, `failed`, `interrupted` and `lost`
//! by compare-and-set, progress on core NATS, its presence in the workers' bucket. **Owns** a scratch directory and
//! one engine process; neither holds a truth that is needed after a crash.
//!
//! - The sequence of its own `started` event is the fence: a newer event in the log means that the task is no longer
//!   ours, whatever we still hold.
//! - A task is acked only after a terminal event of it stands in the log, and `succeeded` only after the video that
//!   passed the gate lies in S3.
//! - Killed at any point, it leaves a lease that ends, checkpoints that the next worker goes on from, and perhaps a
//!   finished video that the next worker finds.

pub mod attempt;
pub mod checkpoints;
pub mod config;
pub mod crash;
pub mod engine;
pub mod finish;
pub mod gate;
pub mod host;
pub mod outcome;
pub mod presence;
pub mod render;
pub mod take;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{Queue, TaskLog, names};
use spotreel_domain::Priority;
use spotreel_s3::Store;

use crate::config::WorkerConfig;

/// How often a worker looks again for consumers that are not provisioned yet.
const PROVISION_RETRY: Duration = Duration::from_secs(1);

/// What every part of a running worker needs.
pub struct Worker {
    pub name: String,
    pub instance: String,
    pub config: WorkerConfig,
    pub log: TaskLog,
    pub store: Store,
    pub presence: presence::Board,
    pub scratch: std::path::PathBuf,
}

pub async fn start(config: WorkerConfig, ctx: Context) -> anyhow::Result<()> {
    ctx.health.expect("queues");
    ctx.health.expect("engine");
    let client = spotreel_bus::connect(&config.nats, "worker", true).await?;
    let log = TaskLog::open(&client).await;
    let store = Store::connect(&config.s3).await;
    let name = config.effective_name();
    let scratch = config.effective_scratch(&name);
    // Whatever an earlier life left here is of no use: what counts lies in S3.
    let _ = tokio::fs::remove_dir_all(&scratch).await;
    tokio::fs::create_dir_all(&scratch)
        .await
        .with_context(|| format!("cannot create scratch {}", scratch.display()))?;
    let worker = Arc::new(Worker {
        presence: presence::Board::new(&name, &config),
        instance: config.effective_instance(),
        name,
        log,
        store,
        scratch,
        config,
    });
    tracing::info!(
        worker = worker.name,
        instance = worker.instance,
        "worker starts"
    );
    let (health, stopping) = (ctx.health.clone(), ctx.stopping.clone());
    let queues = open_queues(&worker, &ctx).await;
    health.set::<&str>("queues", Ok(()));
    ctx.tasks.spawn(
        worker
            .presence
            .clone()
            .announce(client.clone(), stopping.clone()),
    );
    ctx.spawn(
        "render",
        render::run(worker, take::Take::new(queues), ctx.clone()),
    );
    Ok(())
}

/// The consumers are made by `spotreel provision`; until they are there, the worker is not ready and says why.
async fn open_queues(worker: &Worker, ctx: &Context) -> Vec<take::Source> {
    let mut sources = Vec::new();
    for model in worker.config.models.iter().copied() {
        for priority in Priority::ALL {
            let consumer = names::work_consumer(model, priority);
            let queue = loop {
                match Queue::open(worker.log.client(), names::TASKS, &consumer).await {
                    Ok(queue) => break queue,
                    Err(error) => ctx.health.set("queues", Err(error)),
                }
                tokio::time::sleep(PROVISION_RETRY).await;
            };
            sources.push(take::Source {
                model,
                priority,
                queue,
            });
        }
    }
    sources
}

impl Worker {
    pub fn append(
        &self,
        step: (spotreel_domain::Event, spotreel_domain::Task),
        expected: u64,
    ) -> spotreel_bus::log::Append {
        spotreel_bus::log::Append::new(step, expected, ambient::uuid_v7())
    }
}
