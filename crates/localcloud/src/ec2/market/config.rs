//! What market to make: types, zones, and how prices and capacity move.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is offered, made from AWS's list prices (us-east-2) and Spot prices seen there.
const TYPES: &str = include_str!("../../../data/instance_types.json");
const REGION: &str = "us-east-2";

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
