//! The Spot market: what a machine costs, how many there are, and who loses his.
//!
//! Prices and capacity of each pool (a type in a zone) stand still, are drawn from a seed, or come from a trace file
//! ([`trace`]); a person or a test may set either from a moment on. The market is a function of its configuration and
//! of the times it is asked about: it reads no clock and no real randomness.

mod config;
mod draw;
mod interruption;
mod reclaim;
mod series;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

pub use config::{InstanceKind, MarketConfig, Zone};
use interruption::Interruption;
#[cfg(test)]
use interruption::{Reason, Reclaim};
pub use interruption::{ReclaimKind, Running};
use series::Series;
pub use trace::TraceError;

/// Price difference between one zone and the next, in thousandths (g5.xlarge in us-east-2: 377, 386, 394).
const DEARER_BY: i64 = 22;
/// AWS keeps the price history for 90 days; ours reaches as far back before the market's start.
pub(crate) const HISTORY: Duration = Duration::from_secs(90 * 86_400);

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
    pools: BTreeMap<String, BTreeMap<String, PoolSeries>>,
    script: Vec<Interruption>,
    /// Who was told to go, or hinted at, and is still there.
    taken: BTreeSet<String>,
    hinted: BTreeSet<String>,
}

#[derive(Debug)]
struct PoolSeries {
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
                let pool = PoolSeries::drawn(&market.config, kind, &zone.name, nth);
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

    fn pool(&self, kind: &str, zone: &str) -> Option<&PoolSeries> {
        self.pools.get(kind)?.get(zone)
    }

    fn pool_mut(&mut self, kind: &str, zone: &str) -> Result<&mut PoolSeries, UnknownPool> {
        self.pools
            .get_mut(kind)
            .and_then(|zones| zones.get_mut(zone))
            .ok_or_else(|| UnknownPool {
                kind: kind.to_owned(),
                zone: zone.to_owned(),
            })
    }
}

impl PoolSeries {
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
