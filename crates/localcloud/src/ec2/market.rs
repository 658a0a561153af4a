//! The Spot market: what a machine costs, how many there are, and who loses his.
//!
//! Prices and capacity of each pool (a type in a zone) stand still, are drawn from a seed, or come from a trace file
//! ([`trace`]); a person or a test may set either from a moment on. The market is a function of its configuration and
//! of the times it is asked about: it reads no clock and no real randomness.

mod draw;
mod reclaim;
mod series;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[cfg(test)]
use reclaim::{Reason, Reclaim};
pub use reclaim::{ReclaimKind, Running};
use series::Series;
use trace::Interruption;
pub use trace::TraceError;

/// What is offered, made from AWS's list prices (us-east-2) and Spot prices seen there.
const TYPES: &str = include_str!("../../data/instance_types.json");
const REGION: &str = "us-east-2";
/// Price difference between one zone and the next, in thousandths (g5.xlarge in us-east-2: 377, 386, 394).
const DEARER_BY: i64 = 22;
/// AWS keeps the price history for 90 days; ours reaches as far back before the market's start.
pub(crate) const HISTORY: Duration = Duration::from_secs(90 * 86_400);

/// A type of instance and what it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceKind {
    pub name: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub gpus: u32,
    pub gpu_name: String,
    /// Of one GPU.
    pub gpu_memory_mib: u64,
    pub nvme_gb: u64,
    pub on_demand_micros: i64,
    /// The Spot price around which drawn prices move, in the cheapest zone.
    pub spot_micros: i64,
}

/// An availability zone with its one subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    pub name: String,
    pub id: String,
    pub subnet_id: String,
}

/// What market to make.
#[derive(Clone, Debug)]
pub struct MarketConfig {
    pub seed: u64,
    /// Cloud time at which a trace's second 0 lies.
    pub start: Timestamp,
    pub zones: Vec<Zone>,
    pub kinds: Vec<InstanceKind>,
    /// Pools that it names follow it; the others are as configured here.
    pub trace: Option<PathBuf>,
    /// How far a drawn price strays: a standard deviation, as a part of the base; 0: prices stand still.
    pub price_swing: f64,
    /// Time for which a drawn price stays.
    pub price_step: Duration,
    /// Instances that a pool holds.
    pub capacity: u32,
    /// How far a drawn capacity strays, as for prices.
    pub capacity_swing: f64,
    pub capacity_step: Duration,
    /// The chance of an instance to be interrupted within an hour, whatever price and capacity do.
    pub hazard_per_hour: f64,
    /// An interruption strikes a pool and takes this part of its instances, all within three minutes.
    pub event_share: f64,
    /// Two minutes on AWS.
    pub notice: Duration,
    /// This part of the interruptions comes without a word: notices are best effort.
    pub silent_share: f64,
    /// This part of the noticed ones was announced by a rebalance recommendation before.
    pub rebalance_share: f64,
    /// Time from the recommendation to the notice.
    pub rebalance_lead: Duration,
}

impl Default for MarketConfig {
    fn default() -> Self {
        Self::calm()
    }
}

impl MarketConfig {
    /// Prices stand still, there is room for everybody, nobody is interrupted.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            seed: 0,
            start: Timestamp::UNIX_EPOCH,
            zones: default_zones(),
            kinds: default_kinds(),
            trace: None,
            price_swing: 0.0,
            price_step: Duration::from_secs(4 * 3600),
            capacity: 1000,
            capacity_swing: 0.0,
            capacity_step: Duration::from_secs(1800),
            hazard_per_hour: 0.0,
            event_share: 0.7,
            notice: Duration::from_secs(120),
            silent_share: 0.1,
            rebalance_share: 0.3,
            rebalance_lead: Duration::from_secs(300),
        }
    }

    /// A market that lives: prices and capacity move, and now and then a pool is struck.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        Self {
            seed,
            price_swing: 0.08,
            capacity: 12,
            capacity_swing: 0.3,
            hazard_per_hour: 0.05,
            ..Self::calm()
        }
    }
}

/// Three zones of us-east-2.
#[must_use]
pub fn default_zones() -> Vec<Zone> {
    ["a", "b", "c"]
        .into_iter()
        .zip(1..)
        .map(|(letter, number)| Zone {
            name: format!("{REGION}{letter}"),
            id: format!("use2-az{number}"),
            subnet_id: format!("subnet-{number:017x}"),
        })
        .collect()
}

/// GPU types of AWS with their prices.
///
/// # Panics
/// Never: the table is part of the program, and a test reads it.
#[must_use]
pub fn default_kinds() -> Vec<InstanceKind> {
    serde_json::from_str(TYPES).expect("the built-in table is checked by a test")
}

/// Why there is no such market.
#[derive(Debug, thiserror::Error)]
pub enum MarketError {
    #[error("cannot use the market trace")]
    Trace(#[from] TraceError),
}

/// A type and a zone that the market doesn't have together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no pool of {kind} in {zone}")]
pub struct UnknownPool {
    pub kind: String,
    pub zone: String,
}

/// One market; see the module.
#[derive(Debug)]
pub struct Market {
    config: MarketConfig,
    /// By zone in a type, so that a look-up needs no new strings.
    pools: BTreeMap<String, BTreeMap<String, Pool>>,
    script: Vec<Interruption>,
    /// Who was told to go, or hinted at, and is still there.
    taken: BTreeSet<String>,
    hinted: BTreeSet<String>,
}

#[derive(Debug)]
struct Pool {
    price: Series,
    capacity: Series,
}

impl Market {
    /// Reads the trace, if there is one.
    ///
    /// # Errors
    /// The trace cannot be read, or a line of it breaks a rule.
    pub fn new(config: MarketConfig) -> Result<Self, MarketError> {
        let mut market = Self {
            pools: BTreeMap::new(),
            script: Vec::new(),
            taken: BTreeSet::new(),
            hinted: BTreeSet::new(),
            config,
        };
        for kind in &market.config.kinds {
            let zones = market.config.zones.iter().zip(0..);
            let pools = zones.map(|(zone, nth)| {
                let pool = Pool::drawn(&market.config, kind, &zone.name, nth);
                (zone.name.clone(), pool)
            });
            let pools = pools.collect();
            market.pools.insert(kind.name.clone(), pools);
        }
        if let Some(path) = market.config.trace.clone() {
            trace::apply(&path, &mut market)?;
        }
        Ok(market)
    }

    #[must_use]
    pub fn kinds(&self) -> &[InstanceKind] {
        &self.config.kinds
    }

    #[must_use]
    pub fn zones(&self) -> &[Zone] {
        &self.config.zones
    }

    /// The Spot price of an hour, in micro-dollars.
    #[must_use]
    pub fn price(&self, kind: &str, zone: &str, at: Timestamp) -> Option<i64> {
        Some(self.pool(kind, zone)?.price.at(at))
    }

    /// The on-demand price of an hour, in micro-dollars.
    #[must_use]
    pub fn on_demand(&self, kind: &str) -> Option<i64> {
        let kind = self.config.kinds.iter().find(|known| known.name == kind)?;
        Some(kind.on_demand_micros)
    }

    /// The changes of the price between the two moments; before them the last one up to `from`, which was in force then.
    #[must_use]
    pub fn history(
        &self,
        kind: &str,
        zone: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<(Timestamp, i64)> {
        match self.pool(kind, zone) {
            Some(pool) => pool.price.changes(from, to),
            None => Vec::new(),
        }
    }

    /// How many Spot instances the pool holds, those that run included.
    #[must_use]
    pub fn capacity(&self, kind: &str, zone: &str, at: Timestamp) -> u32 {
        let capacity = self.pool(kind, zone).map_or(0, |pool| pool.capacity.at(at));
        u32::try_from(capacity.max(0)).unwrap_or(u32::MAX)
    }

    /// From `at` on the price is this, until it is set again.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn set_price(
        &mut self,
        kind: &str,
        zone: &str,
        micros: i64,
        at: Timestamp,
    ) -> Result<(), UnknownPool> {
        self.pool_mut(kind, zone)?.price.set(at, micros);
        Ok(())
    }

    /// Sets the capacity of the pool from `at` on, until it is set again.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn set_capacity(
        &mut self,
        kind: &str,
        zone: &str,
        instances: u32,
        at: Timestamp,
    ) -> Result<(), UnknownPool> {
        let instances = i64::from(instances);
        self.pool_mut(kind, zone)?.capacity.set(at, instances);
        Ok(())
    }

    fn pool(&self, kind: &str, zone: &str) -> Option<&Pool> {
        self.pools.get(kind)?.get(zone)
    }

    fn pool_mut(&mut self, kind: &str, zone: &str) -> Result<&mut Pool, UnknownPool> {
        self.pools
            .get_mut(kind)
            .and_then(|zones| zones.get_mut(zone))
            .ok_or_else(|| UnknownPool {
                kind: kind.to_owned(),
                zone: zone.to_owned(),
            })
    }
}

impl Pool {
    fn drawn(config: &MarketConfig, kind: &InstanceKind, zone: &str, nth: i64) -> Self {
        let base = kind.spot_micros * (1000 + DEARER_BY * nth) / 1000;
        let epoch = config.start.checked_sub(HISTORY).unwrap_or(Timestamp::MIN);
        Self {
            price: Series::price(config, epoch, &kind.name, zone, base, kind.on_demand_micros),
            capacity: Series::capacity(config, epoch, &kind.name, zone),
        }
    }
}

#[cfg(test)]
mod tests;
