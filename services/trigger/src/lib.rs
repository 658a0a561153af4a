//! `spotreel-trigger`: decides when a batch starts.
//!
//! **Hears**, as hints only: `spotreel.log.*.queued.>` (an ordered consumer of its own, headers only, so that a task is
//! stored before it is counted), `spotreel.batchlog.>`, the operators' orders. **Asks** EC2 for Spot prices and quota.
//! **Says** `spotreel.batchlog.<pool>.<n>.requested`, and the status record `mode.<pool>`. **Answers** `spotreel.why`,
//! `spotreel.quote`, `spotreel.batches`, `spotreel.ops.run`, `.hold`, `.resume`, and `GET /why`. **Owns** no durable data.
//!
//! Each reconcile pass reads the current state ([`observe`]), asks the pure [`decide`](spotreel_domain::trigger::decide) for
//! every pool, and carries out the result ([`act`]). Every hint starts a pass; the time between passes has a minimum and a
//! maximum.
//!
//! Invariants:
//! - A pool has at most one active batch: `requested` is a compare-and-set on the pool's log, based on the state that was
//!   read. Any number of triggers may run; the second write is refused, and its trigger reads again.
//! - An order to run causes one batch. It is done once a batch was requested at its time or later, even if the order still
//!   exists.
//! - A slot of the schedule fires once: the batch that used it records it, and so do later batches.
//! - No batch is requested without a recent status record of the sweeper, or without prices.
//!
//! **After a crash** nothing is lost: batches and orders are in the log and the bucket. What it keeps in memory (prices,
//! the month's batches, arrivals by the minute) is read again at the next start.

mod act;
mod config;
mod crash;
mod deps;
mod error;
mod metrics;
mod observe;
mod prices;
mod reconcile;
mod serve;
mod verbs;
mod wake;

use std::sync::Arc;

use spotreel_api::WhyQuery;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{BatchLog, TaskLog};
use spotreel_pool::arrivals::Arrivals;
use spotreel_pool::oldest::Oldest;
use spotreel_pool::samples::Samples;
use spotreel_pool::spend::Ledger;

pub use config::TriggerConfig;
pub use crash::POINTS as CRASH_POINTS;
pub use deps::Deps;
pub use error::StartError;

use observe::StateReader;
use prices::PoolPrices;
use reconcile::{Reconcile, Shown};
use verbs::Requests;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../trigger.toml");

pub async fn start(config: TriggerConfig, deps: Deps, ctx: Context) -> Result<(), StartError> {
    metrics::describe();
    ctx.health.expect(reconcile::CHECK);
    let Deps { nats, ec2, pools } = deps;
    let pools = Arc::new(pools);
    let batches = BatchLog::open(&nats).await;
    let shown = Shown::new();

    let prices = ec2.map(|ec2| Arc::new(PoolPrices::new(ec2, &pools, &config.prices)));
    if let Some(prices) = prices.clone() {
        let (wake, asking) = (shown.wake.clone(), ctx.clone());
        ctx.spawn_loop("prices", async move {
            Box::pin(prices.run(&wake, &asking)).await;
        });
    }

    let arrivals = Arc::<Arrivals>::default();
    let waking = wake::on_tasks(
        nats.clone(),
        shown.wake.clone(),
        arrivals.clone(),
        ctx.clone(),
    );
    ctx.spawn_loop("new tasks", waking);
    let waking = wake::on_changes(nats.clone(), shown.wake.clone(), ctx.clone());
    ctx.spawn_loop("batches and orders", waking);

    let reconcile = Reconcile {
        reader: StateReader {
            samples: Samples::default(),
            client: nats.clone(),
            log: TaskLog::open(&nats).await,
            batches: batches.clone(),
            pools: pools.clone(),
            oldest: Oldest::default(),
            started: ambient::now(),
        },
        pools: pools.clone(),
        prices: prices.clone(),
        arrivals,
        config: config.reconcile,
        ctx: ctx.clone(),
        shown: shown.clone(),
        ledger: Ledger::default(),
        said: Default::default(),
    };
    ctx.spawn_loop("reconcile", reconcile.run());

    let requests = Arc::new(Requests {
        client: nats.clone(),
        batches,
        pools,
        shown,
        prices,
    });
    let page = requests.clone();
    ctx.pages.add("/why", move || {
        let requests = page.clone();
        async move { serde_json::json!(requests.why(WhyQuery::default()).await.ok()) }
    });
    let offered = serve::verbs(&requests).offer(&nats).await?;
    let (stopping, tasks) = (ctx.stopping.clone(), ctx.tasks.clone());
    ctx.spawn("requests", async move {
        Ok(offered.answer(&stopping, &tasks).await?)
    });
    Ok(())
}
