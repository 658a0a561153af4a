//! A batch: one run of a pool's fleet, from request to settlement.
//!
//! As with tasks, every event carries the whole state after it, and a write names the event that it comes after. The
//! log is one a *pool*, so that a pool has at most one active batch by construction: the next one can only be written
//! after the one before has settled or failed.

mod breaker;
mod id;
mod instance;
mod launch;
mod receipt;
mod residency;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fleet::cloud::{ErrorClass, Lifecycle, Place};
use crate::money::Usd;
use crate::time::elapsed;

pub use breaker::{Breaker, FailedStart};
pub use id::{BadBatchId, BadPoolName, BatchId, MAX_POOL_NAME, PoolName};
pub use instance::{
    Charges, DrainMode, Ending, FREE_IF_TAKEN_WITHIN, Instance, InstanceState, Leaving, Usage,
};
pub use launch::{Launch, LaunchState};
pub use receipt::{Receipt, ReceiptLine};
pub use residency::Residency;

/// Every event carries the whole record, and one message of 1 MiB the receipt, with some 600 bytes an instance. A batch of
/// hybrid mode ends at this number of instances, and the next one begins.
const MOST_INSTANCES: usize = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub id: BatchId,
    pub status: Status,
    /// The rule that asked for it, and its sentence.
    pub rule: String,
    pub why: String,
    /// Units wanted at the request; what is launched later follows the work that is left.
    pub units: u32,
    /// The schedule's slot that was fired last in this pool; carried from batch to batch.
    pub slot: Option<String>,
    pub requested_at: Timestamp,
    pub first_ready_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Nothing is launched after it, and what runs is drained; but see [`Batch::is_overdue`].
    pub deadline: Timestamp,
    pub launches: Vec<Launch>,
    pub instances: Vec<Instance>,
    pub penalties: Vec<Penalty>,
    pub breaker: Breaker,
    pub blocked: Option<Blocked>,
    pub stop: Option<Stop>,
    /// Listings in a row that showed nothing of it, while it wants nothing.
    pub empty_listings: u32,
    /// Tasks that ended while it ran, as its workers told.
    pub tasks_done: u64,
    /// Absent: no instance had to stay without work.
    pub residency: Option<Residency>,
    /// When this state was entered.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Requested,
    Launching,
    Running,
    Draining,
    Settled,
    Failed { reason: String },
}

/// An operator's order to end the batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub mode: DrainMode,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub at: Timestamp,
}

/// A capacity pool that had no capacity, or interrupted instances, is not asked before `until`. Without one: the whole
/// account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Penalty {
    pub place: Option<Place>,
    pub lifecycle: Lifecycle,
    pub class: ErrorClass,
    pub code: String,
    pub message: String,
    pub until: Timestamp,
    /// How often it happened there: the next time is longer.
    pub times: u32,
}

/// Why nothing can be launched although tasks wait, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub by: BlockedBy,
    /// For operators: what is missing, by how much, and what would help.
    pub sentence: String,
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockedBy {
    NoPlaceUnderCap,
    NoCapacity,
    Quota,
    Budget,
    Configuration,
    PricesUnknown,
    CountsUnknown,
    /// Instances end before they serve.
    NeverServed,
}

impl Status {
    pub const NAMES: [&'static str; 6] = [
        "requested",
        "launching",
        "running",
        "draining",
        "settled",
        "failed",
    ];

    /// Its name, which is also the event's token in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Launching => "launching",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Settled => "settled",
            Self::Failed { .. } => "failed",
        }
    }

    pub fn is_final(&self) -> bool {
        matches!(self, Self::Settled | Self::Failed { .. })
    }
}

/// What trigger asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub rule: String,
    pub why: String,
    pub units: u32,
    pub slot: Option<String>,
    pub deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("batch {0} is still active")]
pub struct StillActive(pub BatchId);

impl Batch {
    /// The pool's next batch, which comes after `last`.
    pub fn request(
        pool: &PoolName,
        last: Option<&Self>,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<Self, StillActive> {
        if let Some(active) = last.filter(|last| last.is_active()) {
            return Err(StillActive(active.id.clone()));
        }
        Ok(Self {
            id: BatchId {
                pool: pool.clone(),
                number: last.map_or(0, |last| last.id.number) + 1,
            },
            status: Status::Requested,
            rule: wanted.rule,
            why: wanted.why,
            units: wanted.units,
            slot: wanted
                .slot
                .or_else(|| last.and_then(|last| last.slot.clone())),
            requested_at: now,
            first_ready_at: None,
            ended_at: None,
            deadline: wanted.deadline,
            launches: Vec::new(),
            instances: Vec::new(),
            penalties: last.map(Self::carried_penalties).unwrap_or_default(),
            breaker: Breaker::default(),
            blocked: None,
            stop: None,
            empty_listings: 0,
            tasks_done: 0,
            residency: None,
            at: now,
        })
    }

    pub fn is_active(&self) -> bool {
        !self.status.is_final()
    }

    /// The penalties that the pool's next batch takes over.
    pub fn carried_penalties(&self) -> Vec<Penalty> {
        let places = self.penalties.iter().filter(|p| p.place.is_some());
        places.cloned().collect()
    }

    /// Whether its deadline has passed. While instances have to stay it has none; after that its whole time begins again.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let allowed = self.deadline.duration_since(self.requested_at);
        let deadline = match &self.residency {
            None => self.deadline,
            Some(Residency { until: None, .. }) => return self.instances.len() >= MOST_INSTANCES,
            Some(Residency {
                until: Some(until), ..
            }) => until.saturating_add(allowed).unwrap_or(Timestamp::MAX),
        };
        now >= deadline.max(self.deadline)
    }

    /// Takes an operator's order to end. "At once" overrides "finish"; nothing overrides "at once".
    pub fn stopped(&self, stop: Stop) -> Self {
        let stronger = match &self.stop {
            None => true,
            Some(before) => before.mode == DrainMode::Finish && stop.mode == DrainMode::Now,
        };
        Self {
            stop: if stronger {
                Some(stop)
            } else {
                self.stop.clone()
            },
            ..self.clone()
        }
    }

    /// Takes an operator's order to drain one instance; "at once" hurries one that finishes its task. `None`: it already
    /// leaves, or is not of this batch.
    pub fn ordered_out(&self, instance: &str, mode: DrainMode, now: Timestamp) -> Option<Self> {
        let mut batch = self.clone();
        let machine = batch.instance_mut(instance)?;
        let hurried = matches!(
            machine.state,
            InstanceState::Draining {
                mode: DrainMode::Finish,
                ..
            }
        ) && mode == DrainMode::Now;
        if !machine.is_active() && !hurried {
            return None;
        }
        machine.drain(Leaving::Ordered, mode, now);
        batch.at = now;
        Some(batch)
    }

    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == id)
    }

    pub fn instance_mut(&mut self, id: &str) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.id == id)
    }

    pub fn launch(&self, seq: u32) -> Option<&Launch> {
        self.launches.iter().find(|launch| launch.seq == seq)
    }

    pub fn launch_mut(&mut self, seq: u32) -> Option<&mut Launch> {
        self.launches.iter_mut().find(|launch| launch.seq == seq)
    }

    /// Units that run, may run, or are being bought: what counts against the pool's limit. An instance that EC2 takes
    /// within minutes does not count: its replacement is to boot meanwhile.
    pub fn committed(&self) -> u32 {
        let stays = |i: &&Instance| !i.is_gone() && !i.is_taken();
        let running = self.instances.iter().filter(stays).count();
        let open = self.launches.iter().filter(|launch| launch.is_open());
        let unseen: u32 = open.map(|launch| self.unseen(launch)).sum();
        u32::try_from(running)
            .unwrap_or(u32::MAX)
            .saturating_add(unseen)
    }

    /// Units of launches without an answer that may still appear: those sent less than `within` ago.
    pub fn may_appear(&self, now: Timestamp, within: Duration) -> u32 {
        let may = |launch: &&Launch| matches!(launch.state, LaunchState::Unanswered { at, .. } if elapsed(at, now) < within);
        let launches = self.launches.iter().filter(may);
        launches.map(|launch| self.unseen(launch)).sum()
    }

    /// Units of a launch that neither its answer nor a listing has shown.
    pub fn unseen(&self, launch: &Launch) -> u32 {
        let shown = self.instances.iter().filter(|i| i.launch == launch.seq);
        let shown = u32::try_from(shown.count()).unwrap_or(u32::MAX);
        launch.units.saturating_sub(shown)
    }

    /// What its instances have cost by `now` (the cloud's clock).
    pub fn cost_at(&self, now: Timestamp) -> Usd {
        self.instances
            .iter()
            .map(|instance| instance.cost_at(now))
            .sum()
    }
}
