//! Intake: accepts tasks over NATS and HTTP.
//!
//! **Hears** requests on `spotreel.submit`, `.get`, `.list`, `.cancel`, `.retry` and operators' on `spotreel.ops.key.*`
//! (a NATS service, `nats micro` finds it), HTTP under `/v1`, and what was published to `spotreel.inbox` (the stream
//! INBOX); on `spotreel.progress.*` how far renders are, which it keeps in memory for `get` and `list`. **Asks** trigger
//! on `spotreel.quote`, `.why` and `.batches`, fleet on `.fleet` and monitor on `.search` for what HTTP asks for, monitor on `spotreel.receipt` and `.costs`, and the bucket
//! once a minute for the indexes of packs and
//! tokenizers, and for those of LoRAs when a task names one (`submit/offers.rs`). **Says** an answer to every request; into the
//! task log `queued` and `cancelled`; `spotreel.hint.<id>` after a cancellation; `…rejected` events for the inbox; to followers over HTTP
//! what EVENTS says; into the bucket `spotreel-keys` the keys of the HTTP API.
//! **Owns** no data: the log has the tasks, S3 has the pictures under their hash. Any number of intakes may run.
//!
//! Invariants:
//! - The answer `accepted` means that the event is on disk. Without an answer, it is safe to send the same request again
//!   with the same id or idempotency key.
//! - One id is one task: the same content gets the same answer, other content is a conflict.
//! - Two events of one task never share an atomic batch.
//! - An answer is sent only to an inbox subject: any other subject could be the log's.
//! - An inbox message is deleted only after each of its tasks has its answer.
//!
//! **After a crash**, requests in work get no answer and are safe to repeat. Inbox messages are delivered again after
//! their lease, and are the same tasks. A picture may be in S3 that no task names. A cancelled task's work item may stay
//! in the log until monitor's sweeper deletes it.
//!
//! Intake creates no stream: without one it is not ready, and says which is missing.

mod clock;
pub mod config;
mod deps;
pub mod error;
pub mod http;
pub mod images;
mod intake;
mod keys;
mod metrics;
mod nats;
mod submit;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::events::EventStream;
use spotreel_bus::names::{CONSUMER_INTAKE, INBOX};
use spotreel_bus::{Queue, Room, TaskLog};

pub use crate::config::IntakeConfig;
use crate::config::LARGEST_MESSAGE_MIB;
pub use crate::deps::Deps;
pub use crate::error::StartError;
use crate::images::Images;
use crate::intake::Intake;
use crate::nats::inbox::{self, Inbox};
use crate::nats::pace::BytePace;
use crate::nats::verbs;
use crate::submit::commit::Committer;
use crate::submit::limits::QueueLimits;
use crate::submit::offers::Offers;
pub use crate::submit::{parse, permit_callback};
use crate::tasks::progress::Board;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../intake.toml");

/// Between looks at a server where something is missing.
const MISSING_PAUSE: Duration = Duration::from_secs(1);
/// Between looks at the object store: images only, most tasks come without.
const STORE_CHECK: Duration = Duration::from_secs(10);

/// Waits until everything that intake needs is there, then takes requests. Returns the address of the HTTP API.
pub async fn start(
    config: IntakeConfig,
    deps: Deps,
    ctx: Context,
) -> Result<SocketAddr, StartError> {
    metrics::describe();
    for check in ["nats", "store"] {
        ctx.health.expect(check);
    }
    let (listener, address) = http::bind(&config.api).await?;
    let Deps { nats, store, packs } = deps;
    let limits = Arc::new(QueueLimits::new(&nats, config.limits.clone()).await);
    let queue = wait_until_provisioned(&nats, &limits, &ctx).await;

    let log = TaskLog::open(&nats).await;
    let (committer, committing) = Committer::new(log.clone(), &config.commit);
    ctx.tasks.spawn(committing);
    let offers = Offers::new(packs, config.quality.clone());
    offers.begin().await;
    ctx.spawn("offers", offers.clone().watch(ctx.clone()));
    let images = Images::new(store, config.s3.link_lasts);
    let intake = Arc::new(Intake {
        log,
        committer: committer.clone(),
        images: images.clone(),
        limits: limits.clone(),
        offers,
        progress: Board::default(),
        callback_hosts: config.webhooks.allow_hosts.clone(),
    });

    ctx.spawn("owners", watch_owners(limits.clone(), ctx.clone()));
    let progress = intake.progress.clone();
    ctx.spawn("progress", progress.hear(nats.clone(), ctx.clone()));
    ctx.spawn("limits", watch_limits(limits, committer, ctx.clone()));
    ctx.spawn("store", watch_store(images, ctx.clone()));
    let events = EventStream::open(&nats).await;
    #[expect(clippy::cast_possible_truncation, reason = "it is 9 MiB")]
    let largest = (LARGEST_MESSAGE_MIB << 20) as u32;
    let pace = Arc::new(BytePace::new(config.request_mib_per_second, largest));
    let inbox = Inbox {
        intake: intake.clone(),
        queue,
        events,
        config: config.inbox.clone(),
        pace: pace.clone(),
    };
    ctx.spawn("inbox", inbox::run(inbox, ctx.clone()));

    let keys = keys::ring(&nats, &ctx);
    http::serve(listener, address, config.api, &intake, keys, &ctx);
    let (at_once, memory) = (config.concurrent_requests, config.request_memory_mib);
    let room = Room::new(at_once, memory);
    let offered = verbs::all(&intake, room, pace).offer(&nats).await?;
    let (stopping, tasks) = (ctx.stopping.clone(), ctx.tasks.clone());
    ctx.spawn("requests", async move {
        Ok(offered.answer(&stopping, &tasks).await?)
    });
    // A flush only empties our buffer. The server takes what one connection says in order: once it has answered
    // this, the subjects above are subscribed. What it answers does not matter here; the next poll reports it.
    let _ = intake.limits.poll().await;
    Ok(address)
}

async fn wait_until_provisioned(client: &Client, limits: &QueueLimits, ctx: &Context) -> Queue {
    loop {
        let found = match limits.poll().await {
            Ok(()) => Queue::open(client, INBOX, CONSUMER_INTAKE)
                .await
                .map_err(|error| error.to_string()),
            Err(missing) => Err(missing),
        };
        match found {
            Ok(queue) => {
                ctx.health.set("nats", Ok::<(), &str>(()));
                return queue;
            }
            Err(missing) => {
                tracing::warn!(missing, "waiting for a missing stream or consumer");
                ctx.health.set("nats", Err(missing));
                tokio::time::sleep(MISSING_PAUSE).await;
            }
        }
    }
}

async fn watch_limits(
    limits: Arc<QueueLimits>,
    committer: Committer,
    ctx: Context,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(limits.poll_every());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while ctx
        .stopping
        .run_until_cancelled(tick.tick())
        .await
        .is_some()
    {
        ctx.health.set("nats", limits.poll().await);
        ctx.health.set("task log", committer.check());
    }
    Ok(())
}

async fn watch_owners(limits: Arc<QueueLimits>, ctx: Context) -> anyhow::Result<()> {
    let watching = limits.owners().watch(limits.poll_every());
    ctx.stopping.run_until_cancelled(watching).await;
    Ok(())
}

async fn watch_store(images: Images, ctx: Context) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(STORE_CHECK);
    while ctx
        .stopping
        .run_until_cancelled(tick.tick())
        .await
        .is_some()
    {
        ctx.health.set("store", images.check().await);
    }
    Ok(())
}
