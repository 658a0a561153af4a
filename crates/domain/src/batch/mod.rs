//! A batch: one run of a pool's fleet, from request to settlement.
//!
//! As with tasks, every event carries the whole state after it, and a write names the event that it comes after. The
//! log is one a *pool*, so that a pool has at most one active batch by construction: the next one can only be written
//! after the one before has settled or failed.

mod breaker;
mod instance;
mod launch;
mod receipt;
mod residency;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::cloud::{ErrorClass, Lifecycle, Place};

pub use breaker::{Breaker, FailedStart};
pub use instance::{
    Charges, Ending, FREE_IF_TAKEN_WITHIN, Instance, InstanceState, Leaving, Usage,
};
pub use launch::{Launch, LaunchState};
pub use receipt::{Receipt, ReceiptLine};
pub use residency::Residency;

/// The longest name of a pool: it is a part of subjects, tags and names.
pub const MAX_POOL_NAME: usize = 32;

/// The record travels whole in every event, and its receipt in one message of 1 MiB, with some 600 bytes a machine. A
/// batch whose machines stay ends at this number of machines, and the next one begins.
const MOST_INSTANCES: usize = 1_000;

/// A set of models and of places that can render them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PoolName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pool's name has 1 to {MAX_POOL_NAME} characters out of a-z, 0-9 and '-', and begins and ends with none of '-'"
)]
pub struct BadPoolName;

impl PoolName {
    pub fn parse(text: &str) -> Result<Self, BadPoolName> {
        let safe = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fits = (1..=MAX_POOL_NAME).contains(&text.len());
        if !fits || !text.bytes().all(safe) || text.starts_with('-') || text.ends_with('-') {
            return Err(BadPoolName);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PoolName {
    type Error = BadPoolName;
    fn try_from(text: String) -> Result<Self, BadPoolName> {
        Self::parse(&text)
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<pool>-<number>`, numbers from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BatchId {
    pub pool: PoolName,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a batch's id is the pool's name, a dash and a number: default-17")]
pub struct BadBatchId;

impl BatchId {
    pub fn parse(text: &str) -> Option<Self> {
        let (pool, number) = text.rsplit_once('-')?;
        let pool = PoolName::parse(pool).ok()?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some(Self { pool, number })
    }
}

impl TryFrom<String> for BatchId {
    type Error = BadBatchId;
    fn try_from(text: String) -> Result<Self, BadBatchId> {
        Self::parse(&text).ok_or(BadBatchId)
    }
}

impl From<BatchId> for String {
    fn from(id: BatchId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pool, self.number)
    }
}

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
    /// Absent: no machine was to stay without work.
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

/// A person's order that the batch shall end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub mode: DrainMode,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub at: Timestamp,
}

/// What becomes of the task that a worker has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    Finish,
    /// Its checkpoint is written, and it goes back in the queue.
    Now,
}

/// A place that gave nothing, or took what it gave, is not asked again before `until`. Without a place: the whole account.
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

/// Work waits and nothing can be launched for it: said, timed, and given up at last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub by: Blocker,
    /// For people: what is missing, by how much, and what would help.
    pub sentence: String,
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocker {
    NoPlaceUnderCap,
    NoCapacity,
    Quota,
    Budget,
    Configuration,
    PricesUnknown,
    CountsUnknown,
    /// Machines end before they serve.
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

    /// What the pool's next batch knows of its places.
    pub fn carried_penalties(&self) -> Vec<Penalty> {
        let places = self.penalties.iter().filter(|p| p.place.is_some());
        places.cloned().collect()
    }

    /// Whether its deadline has passed. While machines are to stay it has none; after that it has its whole time again.
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

    /// A person's order to end. "At once" overrides "finish"; nothing overrides "at once".
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

    /// A person's order that one machine shall leave; "at once" hurries one that finishes. None: it leaves already, or
    /// is not of this batch.
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
        machine.state = InstanceState::Draining {
            why: Leaving::Ordered,
            mode,
            since: now,
        };
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
}
