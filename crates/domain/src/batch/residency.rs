//! Instances that stay without work, so that the next tasks need not wait for a boot: cost and savings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Instance;
use crate::money::Usd;
use crate::time::elapsed;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// The most units that were to stay.
    pub units: u32,
    /// When that ended; absent: it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How long instances stayed only because of hybrid mode, and what they cost meanwhile.
    pub idle_seconds: u64,
    pub idle_cost: Usd,
    /// Tasks that began on an instance that had stayed; each would have waited for another one to boot.
    pub boots_saved: u32,
    pub boot_seconds_saved: u64,
    /// What those boots would have cost.
    pub boot_cost_saved: Usd,
    /// The instances that stay without work now, and since when, by the cloud's clock.
    #[serde(skip)]
    pub idle: BTreeMap<String, Timestamp>,
}

impl Residency {
    /// The books at `now`, with what is not closed yet.
    pub fn at(&self, instances: &[Instance], now: Timestamp) -> Self {
        let mut books = self.clone();
        for instance in instances {
            books.close(instance, now);
        }
        books
    }

    /// Ends the idle time of an instance; returns whether it had one.
    pub fn close(&mut self, instance: &Instance, now: Timestamp) -> bool {
        let Some(since) = self.idle.remove(&instance.id) else {
            return false;
        };
        let idle = elapsed(since, now);
        self.idle_seconds += idle.as_secs();
        self.idle_cost += instance.rate.per_hour_for(idle);
        true
    }

    /// Counts a task that began on an instance that had stayed.
    pub fn save_boot(&mut self, instance: &Instance) {
        let boot = instance.boot().unwrap_or_default();
        self.boots_saved += 1;
        self.boot_seconds_saved += boot.as_secs();
        self.boot_cost_saved += instance.rate.per_hour_for(boot);
    }
}
