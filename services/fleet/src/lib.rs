//! `spotreel-fleet`: turns a requested batch into Spot instances, and terminates all of them.
//!
//! | loop | woken by | does |
//! |---|---|---|
//! | one [`Pool`](pool::Pool) each, on the leader | the batch log, workers' presence, operators' orders, answers of calls, the clock | lists the instances, reads the record, decides ([`spotreel_domain::fleet`]), writes, acts |
//! | [`Sweep`](sweep::Sweep), on every fleet | the clock | terminates expired instances, and orphans |
//! | [`gone`] | the clock | finds batches of pools that the configuration does not have, and starts a loop that drains each |
//! | [`Cloud`](cloud::Cloud) | the clock | keeps prices, quotas, templates and types up to date |
//! | [`wake`] | messages | wakes the pools |
//! | [`serve`] | requests | answers `spotreel.fleet`, `spotreel.ops.stop`, `spotreel.ops.drain` |
//!
//! **Says** `launching`, `running`, `draining`, `settled` and `failed` in the batch log, drain orders to workers, and
//! calls to EC2. **Owns** every instance that carries its tags and its `env`, and nothing else.
//!
//! Invariants:
//! - A launch is called only after its request is durable in the record; a repeated call sends the same request.
//! - An instance is an orphan once two listings, each taken before the records were read, show no owner.
//! - Launches are blocked while EC2, the log or the prices cannot be read; terminations continue.
//! - Leadership is a lease. Safety does not depend on it: the compare-and-set makes two fleets at once harmless.
//!
//! **After a crash** the next leader lists the instances by tag, reads the record and continues. A call without an
//! answer is sent again with the same token while EC2 remembers it; after that, listings by tag decide.
//!
//! With `cloud = "none"` in every pool, EC2 is not used: nothing is launched, no batch is expected, and answers say so.

mod act;
mod check;
mod cloud;
mod conditions;
mod config;
mod crash;
mod deps;
mod error;
mod fleet;
mod gone;
mod metrics;
mod observe;
mod pace;
mod pool;
mod reconcile;
mod serve;
mod sweep;
mod verbs;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::{BatchLog, Leadership};
use spotreel_pool::samples::Samples;

pub use crate::config::FleetConfig;
pub use crate::crash::POINTS as CRASH_POINTS;
pub use crate::deps::Deps;
pub use crate::error::StartError;
pub use crate::fleet::Lead;

use crate::cloud::Cloud;
use crate::conditions::Conditions;
use crate::fleet::{Fleet, until_stopped};
use crate::pool::Pool;
use crate::sweep::Sweep;

/// Every key with its default.
pub const DEFAULTS: &str = include_str!("../fleet.toml");

/// How often the connection to NATS is looked at.
const CONNECTION_LOOK: Duration = Duration::from_secs(1);
/// The first sweep goes before everything; a cloud that does not answer is not waited for longer.
const FIRST_SWEEP: Duration = Duration::from_secs(40);

pub async fn start(config: FleetConfig, deps: Deps, ctx: Context) -> Result<(), StartError> {
    metrics::describe();
    let started_at = ambient::now();
    let Deps {
        nats,
        ec2,
        pools,
        lead,
    } = deps;
    let conditions = Arc::new(Conditions::new(&ctx.health));
    conditions.expect("nats");
    let cloud = ec2.map(|ec2| {
        let (env, kinds, prices) = (&config.env, pools.kinds(), config.prices.clone());
        Arc::new(Cloud::new(ec2, env, kinds, prices, Arc::clone(&conditions)))
    });
    let name = format!("{} {}", ctx.name, std::process::id());
    let wakers = pools.pool.keys().map(|name| (name.clone(), Arc::default()));
    let fleet = Arc::new(Fleet {
        leadership: Arc::new(Leadership::new(&nats, "fleet", &name).await),
        batches: BatchLog::open(&nats).await,
        ledger: Default::default(),
        samples: Samples::default(),
        wakers: wakers.collect(),
        ctx: ctx.clone(),
        config,
        pools,
        cloud,
        conditions,
        lead,
        started_at,
    });

    if let Some(cloud) = &fleet.cloud {
        spawn_ec2_loops(&fleet, cloud).await;
    }
    let gone = gone::watch(Arc::clone(&fleet), ctx.stopping.clone());
    ctx.spawn("gone", until_stopped(gone));
    let waking = wake::listen(nats, fleet.wakers.clone(), ctx.stopping.clone());
    ctx.spawn("wake", until_stopped(waking));
    ctx.tasks.spawn(watch_connection(Arc::clone(&fleet)));
    ctx.tasks.spawn(answer(fleet));
    Ok(())
}

/// Terminates what has expired, then starts the loops that need EC2.
async fn spawn_ec2_loops(fleet: &Arc<Fleet>, cloud: &Arc<Cloud>) {
    let (ctx, stopping) = (&fleet.ctx, || fleet.ctx.stopping.clone());
    let bought = fleet.bought();
    let life = bought
        .values()
        .map(|(policy, _)| policy.patience.life)
        .max();
    let mut sweep = Sweep {
        fleet: Arc::clone(fleet),
        cloud: Arc::clone(cloud),
        life: life.unwrap_or_default(),
        marks: Default::default(),
    };
    if tokio::time::timeout(FIRST_SWEEP, sweep.sweep())
        .await
        .is_err()
    {
        tracing::warn!("first sweep timed out; continuing with the next one");
    }
    ctx.spawn("sweep", until_stopped(sweep.run(stopping())));
    ctx.spawn(
        "prices",
        until_stopped(Arc::clone(cloud).keep_prices(stopping())),
    );
    ctx.spawn(
        "quotas",
        until_stopped(Arc::clone(cloud).keep_hints(stopping())),
    );
    ctx.spawn(
        "checks",
        until_stopped(Arc::clone(cloud).keep_checked(bought.clone(), stopping())),
    );
    for (name, (policy, _)) in bought {
        let config = fleet.pools.pool[&name].clone();
        let waker = Arc::clone(&fleet.wakers[&name]);
        let (pool, called) = Pool::new(Arc::clone(fleet), Arc::clone(cloud), config, policy, waker);
        ctx.spawn("pool", until_stopped(pool.run(called, stopping())));
    }
    if fleet.lead == Lead::ByLease {
        let (leadership, stopping) = (Arc::clone(&fleet.leadership), stopping());
        ctx.tasks
            .spawn(async move { leadership.run(&stopping).await });
    }
}

async fn watch_connection(fleet: Arc<Fleet>) {
    let stopping = &fleet.ctx.stopping;
    let mut tick = tokio::time::interval(CONNECTION_LOOK);
    while stopping.run_until_cancelled(tick.tick()).await.is_some() {
        let said = match fleet.is_connected() {
            true => Ok(()),
            false => Err("there is no connection".to_owned()),
        };
        fleet.conditions.set("nats", said);
    }
}

/// If the requests cannot be subscribed to, fleet says so and still launches and terminates instances.
async fn answer(fleet: Arc<Fleet>) {
    let ctx = &fleet.ctx;
    let answered = match serve::verbs(&fleet).offer(fleet.batches.client()).await {
        Ok(offered) => offered.answer(&ctx.stopping, &ctx.tasks).await,
        Err(error) => Err(error),
    };
    if let Err(error) = answered {
        let error = spotreel_domain::chain(&error);
        tracing::error!(error, "requests are not answered");
        fleet.conditions.set("requests", Err(error));
    }
}
