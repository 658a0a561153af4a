//! Who runs on Spot, and what the market does to them.

use std::time::Duration;

use jiff::Timestamp;

pub(super) const ANY: &str = "*";

/// A Spot instance that runs.
#[derive(Clone, Debug)]
pub struct Running {
    pub instance_id: String,
    pub kind: String,
    pub zone: String,
    pub since: Timestamp,
    /// None: whatever it costs.
    pub max_price: Option<i64>,
}

/// What happens to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    pub instance_id: String,
    /// When, in the time that was asked about.
    pub at: Timestamp,
    pub kind: ReclaimKind,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimKind {
    /// It is told, and goes after this much of the cloud's time.
    Notice { lead: Duration },
    /// It is told that it may be interrupted.
    Rebalance,
    /// It goes at once, without a word.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Price,
    Capacity,
    Hazard,
    Script,
}

/// An interruption that the trace orders.
#[derive(Debug)]
pub(super) struct Interruption {
    pub at: Timestamp,
    pub kind: String,
    pub zone: String,
    pub count: usize,
    pub reclaim: ReclaimKind,
}

impl Interruption {
    pub fn means(&self, instance: &Running) -> bool {
        let fits = |pattern: &str, name: &str| pattern == ANY || pattern == name;
        fits(&self.kind, &instance.kind) && fits(&self.zone, &instance.zone)
    }
}
