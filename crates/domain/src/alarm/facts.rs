//! What alarms are decided on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::burst::Happening;
use crate::batch::PoolName;
use crate::money::Usd;

/// The facts at one moment. What could not be read is `None`: alarms that need it stay as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlarmFacts {
    /// What all pools have cost in this day and month (UTC).
    pub today: Option<Usd>,
    pub this_month: Option<Usd>,
    /// The mean number of unfinished tasks over the last whole window of `backlog.mean_over`.
    pub queue: Option<u64>,
    /// Of instances, by EC2; and of tasks that failed for good. In the order of time.
    pub interruptions: Option<Vec<Happening>>,
    pub failures: Option<Vec<Happening>>,
    pub pools: Option<BTreeMap<PoolName, PoolHealth>>,
    pub log_used_percent: Option<u64>,
    /// What is wrong with the clients' copy of EVENTS.
    pub events_copy: Option<Result<(), String>>,
    /// Programs that have answered once, and whether they do now.
    pub programs: Option<BTreeMap<String, bool>>,
}

/// For how long a success counts: long enough that the hold time of the alarm begins anew after it.
pub const SUCCESS_IS_RECENT: Duration = Duration::from_secs(6 * 60);

/// How a pool fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolHealth {
    /// Why its active batch may not launch.
    pub blocked: Option<String>,
    /// Why launches are paused or given up: instances end before they serve.
    pub breaker: Option<String>,
    /// Instances serve and tasks wait, and none has succeeded within [`SUCCESS_IS_RECENT`].
    pub fruitless: Option<String>,
}
