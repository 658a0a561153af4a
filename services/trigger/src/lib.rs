//! `spotreel-trigger`: decides when a batch starts.
//!
//! **Hears**, as hints only: `spotreel.log.*.queued.>` (an ordered consumer of its own, headers only, so that a task is
//! stored before it is counted), `spotreel.batchlog.>`, the operators' orders. **Asks** EC2 for Spot prices and quota.
//! **Says** `spotreel.batchlog.<pool>.<n>.requested`, and the status record `mode.<pool>`. **Answers** `spotreel.why`,
//! `spotreel.quote`, `spotreel.batches`, `spotreel.ops.run`, `.hold`, `.resume`, and `GET /why`. **Owns** no durable data.
//!
//! Each reconcile pass reads the current state ([`view`]), asks the pure [`decide`](spotreel_domain::trigger::decide) for
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
mod error;
mod inbox;
mod metrics;
mod prices;
mod reconcile;
mod serve;
mod verbs;
mod view;

use std::sync::Arc;

use async_nats::Client;
use spotreel_api::WhyQuery;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{BatchLog, TaskLog};
use spotreel_domain::pool::Pools;
use spotreel_ec2::Ec2;
use spotreel_pool::arrivals::Arrivals;
use spotreel_pool::oldest::Oldest;
use spotreel_pool::samples::Samples;
use spotreel_pool::spend::Ledger;

pub use config::TriggerConfig;
pub use crash::POINTS as CRASH_POINTS;
pub use error::StartError;

use prices::Market;
use reconcile::{Reconcile, Shown};
use verbs::Desk;
use view::Reader;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../trigger.toml");

pub async fn start(config: TriggerConfig, ctx: Context) -> anyhow::Result<()> {
    let pools = config.load_pools()?;
    let client = spotreel_bus::connect(&config.nats, "trigger", true).await?;
    let ec2 = match pools.kinds().is_empty() {
        true => None,
        false => Some(Ec2::connect(&config.ec2).await),
    };
    start_with(config, pools, ec2, client, ctx).await
}

/// As [`start`], over connections that are made already.
pub async fn start_with(
    config: TriggerConfig,
    pools: Pools,
    ec2: Option<Ec2>,
    client: Client,
    ctx: Context,
) -> anyhow::Result<()> {
    metrics::describe();
    ctx.health.expect(reconcile::CHECK);
    let pools = Arc::new(pools);
    let shown = Shown::new();
    let arrivals = Arc::<Arrivals>::default();
    let batches = BatchLog::open(&client).await;

    let market = ec2.map(|ec2| Arc::new(Market::new(ec2, &pools, &config.prices)));
    if let Some(market) = market.clone() {
        let (wake, asking) = (shown.wake.clone(), ctx.clone());
        ctx.spawn("prices", async move {
            Box::pin(market.run(&wake, &asking)).await;
            Ok(())
        });
    }

    let reconcile = Reconcile {
        reader: Reader {
            samples: Samples::default(),
            client: client.clone(),
            log: TaskLog::open(&client).await,
            batches: batches.clone(),
            pools: pools.clone(),
            oldest: Oldest::default(),
            started: ambient::now(),
        },
        pools: pools.clone(),
        market: market.clone(),
        arrivals: arrivals.clone(),
        config: config.reconcile,
        ctx: ctx.clone(),
        shown: shown.clone(),
        ledger: Ledger::default(),
        said: Default::default(),
    };
    ctx.spawn("reconcile", async move {
        reconcile.run().await;
        Ok(())
    });
    let hearing = inbox::hear_tasks(client.clone(), shown.wake.clone(), arrivals, ctx.clone());
    ctx.spawn("new tasks", hearing);
    let hearing = inbox::hear_changes(client.clone(), shown.wake.clone(), ctx.clone());
    ctx.spawn("batches and orders", hearing);

    let desk = Arc::new(Desk {
        client: client.clone(),
        batches,
        pools,
        shown,
        market,
    });
    let page = desk.clone();
    ctx.pages.add("/why", move || {
        let desk = page.clone();
        async move { serde_json::json!(desk.why(WhyQuery::default()).await.ok()) }
    });
    let offered = serve::verbs(&desk).offer(&client).await?;
    let (stopping, tasks) = (ctx.stopping.clone(), ctx.tasks.clone());
    ctx.spawn("requests", async move {
        Ok(offered.answer(&stopping, &tasks).await?)
    });
    Ok(())
}
