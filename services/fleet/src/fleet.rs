//! What all loops of fleet share.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::connection::State;
use jiff::Timestamp;
use spotreel_bootstrap::Context;
use spotreel_bus::batches::RecordedBatch;
use spotreel_bus::log::ReadError;
use spotreel_bus::{BatchLog, Leadership};
use spotreel_domain::Usd;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::Policy;
use spotreel_domain::fleet::cloud::Template;
use spotreel_domain::pool::{PoolConfig, PoolTemplate, Pools};
use spotreel_pool::samples::Samples;
use spotreel_pool::spend::Ledger;

use crate::cloud::Cloud;
use crate::conditions::Conditions;
use crate::config::FleetConfig;
use crate::wake::{Waker, Wakers};

/// Which fleets make reconcile passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// The one that holds the lease.
    ByLease,
    /// Without a lease, for tests: safe, since every write is a compare-and-set.
    Always,
}

pub struct Fleet {
    pub(crate) config: FleetConfig,
    pub(crate) pools: Pools,
    pub(crate) batches: BatchLog,
    /// Locked by a pool while it decides and writes, so that the next one counts what it buys.
    pub(crate) ledger: tokio::sync::Mutex<Ledger>,
    pub(crate) samples: Samples,
    pub(crate) cloud: Option<Arc<Cloud>>,
    pub(crate) conditions: Arc<Conditions>,
    pub(crate) wakers: Wakers,
    pub(crate) ctx: Context,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) lead: Lead,
    /// When its configuration was read.
    pub(crate) started_at: Timestamp,
}

impl Fleet {
    /// The pools for which this fleet launches instances, with their policies as configured.
    pub(crate) fn bought(&self) -> BTreeMap<PoolName, (Policy, Template)> {
        let pools = self.pools.pool.iter();
        pools
            .filter(|(_, pool)| pool.cloud == spotreel_domain::pool::Cloud::Aws)
            .map(|(name, pool)| {
                let policy = self.policy(name, pool);
                let template = policy.template.clone();
                (name.clone(), (policy, template))
            })
            .collect()
    }

    /// Whether this fleet launches instances for the pool.
    pub(crate) fn buys(&self, pool: &PoolName) -> bool {
        let config = self.pools.pool.get(pool);
        config.is_some_and(|config| config.cloud == spotreel_domain::pool::Cloud::Aws)
    }

    pub(crate) fn policy(&self, name: &PoolName, pool: &PoolConfig) -> Policy {
        let FleetConfig {
            env,
            project,
            template,
            tags,
            ..
        } = &self.config;
        let global = PoolTemplate {
            id: template
                .id
                .clone()
                .or(template.name.clone())
                .unwrap_or_default(),
            version: template.version.unwrap_or_default(),
            on_demand_version: template.on_demand_version,
        };
        let mut policy = pool.policy(name, env, project, global);
        for (key, value) in tags {
            let of_pool = policy.tags.entry(key.clone());
            of_pool.or_insert_with(|| value.clone());
        }
        policy.most_per_hour = self.most_per_hour();
        policy
    }

    /// The largest hourly budget of the pools that launch instances; `None` if one of them has none.
    fn most_per_hour(&self) -> Option<Usd> {
        let buying = self.pools.pool.iter().filter(|(name, _)| self.buys(name));
        let limits = buying.map(|(_, pool)| pool.rules.budgets.per_hour);
        limits.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.batches.client().connection_state() == State::Connected
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.lead == Lead::Always || self.leadership.is_leader()
    }

    /// Returns once this fleet leads.
    pub(crate) async fn leads(&self) {
        if self.lead == Lead::ByLease {
            self.leadership.elected().await;
        }
    }

    /// Returns at once while this fleet does not lead, and else never.
    pub(crate) async fn follows(&self) {
        if self.is_leader() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn said_record(&self, read: &Result<Option<RecordedBatch>, ReadError>) {
        let said = read.as_ref().map(drop).map_err(ToString::to_string);
        self.conditions.set("batch log", said);
    }

    pub(crate) fn waker(&self, pool: &PoolName) -> Option<&Arc<Waker>> {
        self.wakers.get(pool)
    }
}

pub(crate) async fn until_stopped(run: impl Future<Output = ()>) -> anyhow::Result<()> {
    run.await;
    Ok(())
}
