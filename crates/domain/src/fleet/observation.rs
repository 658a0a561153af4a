//! The input of a reconcile pass. A fact that could not be read is `None`: unknown is never treated as zero.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::cloud::{Lifecycle, Place, SeenInstance};
use crate::batch::{Batch, Instance, InstanceState};
use crate::money::Usd;
use crate::spend::{self, Spend};

#[derive(Clone, Debug)]
pub struct Observation {
    /// Our clock.
    pub now: Timestamp,
    /// The cloud's clock at the listing. An instance's age is counted by it: ours may be wrong.
    pub cloud_now: Timestamp,
    /// All instances with our tags, listed *before* the record was read: a listed instance that no record names has no
    /// owner.
    pub listing: Vec<SeenInstance>,
    /// The workers' presence records.
    pub workers: Option<Vec<WorkerSeen>>,
    /// The queue of the pool's models.
    pub work: Option<Work>,
    /// The same by the instance types that can render it, the hardest first. Empty: every type of the pool renders all.
    pub needs: Vec<Need>,
    pub market: Option<Market>,
    /// The launch whose call is under way in this process.
    pub in_flight: Option<u32>,
    /// What all other batches have cost and cost now, of every pool, ended or not. `None`: it could not be read.
    pub spent: Option<Spend>,
    /// A hint: EC2 refuses what goes beyond its quota.
    pub quota: Quota,
    /// Number of instances that stay without work.
    pub keep: u32,
    /// Tasks that this batch's instances have finished; counted shortly before it settles.
    pub tasks_done: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    pub instance: String,
    pub state: WorkerState,
    /// When EC2 will end its instance, if it has said so.
    pub notice_at: Option<Timestamp>,
    pub rebalance: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    Idle,
    Busy,
    /// Takes no new task, and has one in hand.
    Draining,
    /// Takes no new task, and has none in hand.
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Tasks that wait or are being rendered.
    pub runnable: u64,
    /// Of them, those that live workers say they have in hand.
    pub rendering: u64,
    /// Units that the sizing rule asks for.
    pub sized: u32,
    /// Seconds that one unit takes for all of it, as far as it is known.
    pub seconds: u64,
}

/// Tasks that not every type of the pool can render, each with those that are harder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Instance types that can render at least the easiest of them.
    pub kinds: BTreeSet<String>,
    pub waiting: u64,
    /// Instances of these types that they need.
    pub sized: u32,
    /// The same without the harder tasks.
    pub own: u32,
}

impl Work {
    /// Tasks that a worker could start now, or after a short delay.
    pub fn waiting(&self) -> u64 {
        self.runnable.saturating_sub(self.rendering)
    }
}

/// Prices per hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Market {
    pub spot: BTreeMap<Place, Usd>,
    /// By instance type.
    pub on_demand: BTreeMap<String, Usd>,
    /// Of an instance's volume, and of its public address.
    pub volume: Usd,
    pub address: Usd,
}

/// The account's quotas, in vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// What is left beside all instances that the listing shows, of every pool. Absent: not known, so no limit.
    pub left: BTreeMap<Lifecycle, u32>,
    /// Of each instance type, as far as it is known.
    pub vcpus: BTreeMap<String, u32>,
}

impl Quota {
    /// vCPUs that an instance of this type takes of the quotas, which are those of G and VT types. `None`: not known, or its
    /// family has quotas of its own.
    pub fn vcpus_of(&self, kind: &str) -> Option<u32> {
        let is_counted = kind.starts_with('g') || kind.starts_with("vt");
        self.vcpus.get(kind).copied().filter(|_| is_counted)
    }

    /// vCPUs of these instances, as far as their types are known.
    pub fn used<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> u32 {
        let vcpus = kinds.into_iter().filter_map(|kind| self.vcpus_of(kind));
        vcpus.fold(0, u32::saturating_add)
    }

    /// Whether there is room for an instance of this type; yes, if nothing is known of it.
    pub fn admits(&self, lifecycle: Lifecycle, kind: &str) -> bool {
        let (left, vcpus) = (self.left.get(&lifecycle), self.vcpus_of(kind));
        left.zip(vcpus).is_none_or(|(left, vcpus)| vcpus <= *left)
    }

    /// Number of instances of the smallest of these types for which there is room. `None`: not known.
    pub fn units<'a>(
        &self,
        lifecycle: Lifecycle,
        kinds: impl IntoIterator<Item = &'a str>,
    ) -> Option<u32> {
        let left = self.left.get(&lifecycle)?;
        let vcpus = kinds.into_iter().map(|kind| self.vcpus_of(kind));
        let smallest: Option<Vec<u32>> = vcpus.collect();
        Some(left / smallest?.into_iter().min()?.max(1))
    }
}

impl Market {
    pub fn price(&self, place: &Place, lifecycle: Lifecycle) -> Option<Usd> {
        match lifecycle {
            Lifecycle::Spot => self.spot.get(place).copied(),
            Lifecycle::OnDemand => self.on_demand.get(&place.kind).copied(),
        }
    }
}

impl Observation {
    /// Types that can render at least one of the tasks. `None`: every type of the pool can.
    pub fn able(&self) -> Option<&BTreeSet<String>> {
        self.needs.last().map(|all| &all.kinds)
    }

    pub fn worker_of(&self, instance: &Instance) -> Option<&WorkerSeen> {
        let workers = self.workers.as_ref()?;
        workers.iter().find(|worker| worker.instance == instance.id)
    }

    pub fn is_idle(&self, instance: &Instance) -> bool {
        let worker = self.worker_of(instance);
        let idle = worker.is_some_and(|worker| worker.state == WorkerState::Idle);
        idle && instance.state == InstanceState::Serving
    }

    /// It stays and has a task in hand.
    pub fn is_busy(&self, instance: &Instance) -> bool {
        instance.state == InstanceState::Serving && !self.is_idle(instance)
    }

    /// What an hour of it costs now. `None`: not known.
    pub fn price_of(&self, instance: &Instance) -> Option<Usd> {
        let market = self.market.as_ref()?;
        market.price(&instance.place, instance.lifecycle)
    }

    /// What all pools cost, with this batch.
    pub fn spend_with(&self, batch: &Batch) -> Option<Spend> {
        Some(self.spent? + spend::spend([batch], self.cloud_now))
    }
}
