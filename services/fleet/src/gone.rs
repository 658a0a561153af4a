//! Batches of pools for which this fleet buys nothing: a pool was renamed or removed, or got `cloud = "none"`, while its
//! batch ran. Their instances still cost money, so fleet drains them and settles their batches, as after an operator's stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use spotreel_bus::RecordedBatch;
use spotreel_bus::log::ReadError;
use spotreel_domain::batch::PoolName;
use spotreel_domain::pool::PoolConfig;
use spotreel_pool::spend;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, until_stopped};
use crate::pool::Pool;

/// Delay after a failed read, especially at the start, while there is no connection yet.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum age of the instances of a removed pool, whose own is not known any more: the sweep terminates them by their tags.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time for its workers to hand back their tasks: a step and an upload of the slowest.
const HAND_BACK: Duration = Duration::from_secs(15 * 60);

/// Looks for such batches until told to stop; starts a loop for each of their pools.
pub async fn watch(fleet: Arc<Fleet>, stopping: CancellationToken) {
    let mut kept = BTreeSet::new();
    let mut look_at = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(look_at) => {}
            () = stopping.cancelled() => return,
        }
        let pause = match find(&fleet).await {
            Ok(found) => {
                follow(&fleet, &found, &mut kept);
                fleet.config.sweep.every
            }
            Err(error) => {
                tracing::debug!(%error, "batches of pools that are gone cannot be looked for");
                RETRY
            }
        };
        look_at = Instant::now() + pause;
    }
}

/// Active batches of pools that this fleet buys nothing for.
pub async fn find(fleet: &Fleet) -> Result<BTreeMap<PoolName, RecordedBatch>, ReadError> {
    let mut newest = spend::newest(&fleet.batches, fleet.pools.pool.keys()).await?;
    newest.retain(|pool, last| last.batch.is_active() && !fleet.buys(pool));
    Ok(newest)
}

/// Why this fleet buys nothing for the pool.
pub fn reason(fleet: &Fleet, pool: &PoolName) -> String {
    match fleet.pools.pool.contains_key(pool) {
        true => format!("pool {pool} has cloud = \"none\" now"),
        false => format!("pool {pool} is not in pools.toml any more"),
    }
}

fn follow(
    fleet: &Arc<Fleet>,
    found: &BTreeMap<PoolName, RecordedBatch>,
    kept: &mut BTreeSet<PoolName>,
) {
    for (pool, last) in found {
        let (reason, batch) = (reason(fleet, pool), &last.batch.id);
        let is_new = kept.insert(pool.clone());
        let Some(cloud) = &fleet.cloud else {
            // This fleet does not use EC2 and could never learn that the instances have ended, so no check may fail.
            if is_new {
                tracing::error!(
                    %pool, %batch,
                    "{reason}, and no pool has a cloud: instances of its batch end by their own timers only; run `spotreel fleet reap`, or put the pool back"
                );
            }
            continue;
        };
        let said = match last.batch.requested_at > fleet.started_at {
            true => format!(
                "trigger requested batch {batch} after this fleet had started, but {reason}: restart fleet with the \
                 pools.toml of trigger"
            ),
            false => format!(
                "{reason}: batch {batch} is drained and settled, and counts in the budgets until then; put the pool back \
                 if it was removed by mistake"
            ),
        };
        // A fleet that does not lead reports nothing: the leader's file may have the pool.
        match fleet.is_leader() {
            true => fleet.conditions.set(&check(pool), Err(said)),
            false => fleet.conditions.recover(&check(pool)),
        }
        if !is_new {
            continue;
        }
        let config = config_of(fleet, pool);
        let policy = fleet.policy(pool, &config);
        let (fleet, cloud) = (Arc::clone(fleet), Arc::clone(cloud));
        let (ctx, stopping) = (fleet.ctx.clone(), fleet.ctx.stopping.clone());
        let (of_pool, called) = Pool::new(fleet, cloud, config, policy, Arc::default());
        let run = of_pool.ends_for(reason).run(called, stopping);
        ctx.spawn("pool that is gone", until_stopped(run));
    }
    for pool in kept.iter().filter(|pool| !found.contains_key(*pool)) {
        fleet.conditions.set(&check(pool), Ok(()));
    }
}

/// The configuration of such a pool, which buys nothing. Of a removed pool no key is known, so its workers get enough time to
/// hand back their tasks, and its instances expire by their tags.
fn config_of(fleet: &Fleet, pool: &PoolName) -> PoolConfig {
    let known = fleet.pools.pool.get(pool).cloned();
    let mut config = known.unwrap_or_else(|| {
        let mut config = PoolConfig::default();
        config.patience.life = LIFE;
        config.patience.drain = HAND_BACK;
        config
    });
    config.models = Vec::new();
    config
}

fn check(pool: &PoolName) -> String {
    format!("pool {pool}")
}
