//! The current state, as trigger has read it: the input of a decision.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::{Blocker, Mode};
use super::schedule::Slot;
use crate::money::Usd;
use crate::spend::{Reserved, Spend};
use crate::workload::Unrenderable;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Tasks that nobody renders.
    pub queued: u64,
    /// Tasks that are not finished: those queued and those being rendered.
    pub work: u64,
    pub oldest_queued_at: Option<Timestamp>,
    /// Since when the counts cannot be trusted, because the sweeper's mark is old. Absent: they can.
    pub counts_stale_since: Option<Timestamp>,
    pub past: Past,
    pub active_batch: Option<String>,
    pub prices: Prices,
    /// Units that the account's quota still admits; absent: not known, or no quota.
    pub quota_units: Option<u32>,
    pub hold: Option<Hold>,
    pub run_now: Option<RunNow>,
    /// What all pools cost together.
    pub spend: Spend,
    /// What batches of other pools are about to launch. It counts as if it ran already.
    #[serde(default, skip_serializing_if = "Reserved::is_none")]
    pub reserved: Reserved,
    /// What the pool's last batches took for a task. Absent: nothing has been measured.
    pub seconds_per_task: Option<f64>,
    /// By the cost model, over what is queued. Absent: it knows no card of the pool that renders it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_modelled: Option<f64>,
    /// From a launch to the first step of a render. Absent: not reckoned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_s: Option<u64>,
    /// Tasks that no type of the pool can render. They count neither as queued nor as work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrenderable: Option<Unrenderable>,
    /// Tasks that arrived in the last hour.
    pub arrivals_per_hour: u64,
    pub mode: ModeState,
    /// Units that stay so far.
    #[serde(default)]
    pub resident_units: u32,
    /// What fleet has run into: quota, authorisation, no pool. Fleet takes back what no longer holds.
    pub pool_blockers: Vec<Blocker>,
}

/// The batches before. Asked for, served and failed are apart: an attempt without capacity is not a batch that served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When the newest batch, whatever became of it, was asked for.
    pub requested_at: Option<Timestamp>,
    /// When the first worker of the newest batch that had one was ready.
    pub served_at: Option<Timestamp>,
    /// Batches in a row, up to the newest, that ended without one.
    pub failed_in_row: u32,
    /// When the newest of those ended.
    pub failed_at: Option<Timestamp>,
    /// Why it did.
    pub failure: Option<String>,
    /// The newest slot of the schedule that a batch has used.
    pub slot: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Prices {
    Known(PriceSummary),
    Unknown {
        since: Timestamp,
        reason: String,
    },
    /// `cloud = "none"`: the machines are one's own.
    NoCloud,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceSummary {
    pub as_of: Timestamp,
    /// The cheapest pool that may be used now.
    pub usable: Option<CapacityPoolPrice>,
    /// The cheapest configured pool, be it above its cap.
    pub cheapest: Option<CapacityPoolPrice>,
    pub usable_pools: u32,
    /// What a unit of the next launch will probably cost an hour; absent: the cheapest usable price.
    pub expected: Option<Usd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityPoolPrice {
    /// Instance type and zone.
    pub pool: String,
    /// Dollars for an hour of one GPU.
    pub price: Usd,
    pub cap: Usd,
}

/// A person has stopped launches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
}

/// A person wants a batch without waiting for a rule. The next batch that is asked for answers it, and it is forgotten
/// after [`super::RUN_NOW_LIFE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNow {
    pub by: String,
    pub at: Timestamp,
    /// Even though launches are held.
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeState {
    pub mode: Mode,
    /// When it was entered; absent: it has never been another.
    pub since: Option<Timestamp>,
}

impl View {
    /// An empty queue with nothing known against a launch, for machines of one's own.
    pub fn empty() -> Self {
        Self {
            queued: 0,
            work: 0,
            oldest_queued_at: None,
            counts_stale_since: None,
            past: Past::default(),
            active_batch: None,
            prices: Prices::NoCloud,
            quota_units: None,
            hold: None,
            run_now: None,
            spend: Spend::default(),
            reserved: Reserved::default(),
            seconds_per_task: None,
            seconds_modelled: None,
            startup_s: None,
            unrenderable: None,
            arrivals_per_hour: 0,
            mode: ModeState::default(),
            resident_units: 0,
            pool_blockers: Vec::new(),
        }
    }

    /// What all pools cost, with what is about to be launched.
    pub fn committed(&self) -> Spend {
        Spend {
            per_hour: self.spend.per_hour + self.reserved.per_hour,
            ..self.spend
        }
    }

    /// What a unit of a launch would cost an hour, as far as it is known.
    pub fn unit_price(&self) -> Option<Usd> {
        match &self.prices {
            Prices::Known(market) => market
                .expected
                .or(market.usable.as_ref().map(|quote| quote.price)),
            Prices::Unknown { .. } => None,
            Prices::NoCloud => Some(Usd::ZERO),
        }
    }

    /// What a unit costs an hour in the cheapest pool that may be used.
    pub fn least_price(&self) -> Option<Usd> {
        match &self.prices {
            Prices::Known(market) => market.usable.as_ref().map(|quote| quote.price),
            Prices::Unknown { .. } | Prices::NoCloud => self.unit_price(),
        }
    }
}
