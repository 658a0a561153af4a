//! What money and time went into.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::Usd;

/// The lines of a bill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostLines {
    /// Instances from `running` until their workers served.
    pub boot: Usd,
    /// Attempts until their first step: packs, checkpoints, the model.
    pub load: Usd,
    pub rendering: Usd,
    /// Instances that served without a task.
    pub idle: Usd,
    /// Work that an interruption or a lost worker has wasted.
    pub interrupted: Usd,
    pub volume: Usd,
    pub address: Usd,
    /// Zero or negative: instances that EC2 took within their first hour cost nothing.
    pub credit: Usd,
}

impl CostLines {
    pub fn total(&self) -> Usd {
        self.each().into_iter().map(|(_, amount)| amount).sum()
    }

    /// Each line with its name, in the order in which people read them.
    pub fn each(&self) -> [(&'static str, Usd); 8] {
        [
            ("boot", self.boot),
            ("load", self.load),
            ("rendering", self.rendering),
            ("idle", self.idle),
            ("interrupted", self.interrupted),
            ("volume", self.volume),
            ("address", self.address),
            ("credit", self.credit),
        ]
    }

    pub(super) fn each_mut(&mut self) -> [&mut Usd; 8] {
        [
            &mut self.boot,
            &mut self.load,
            &mut self.rendering,
            &mut self.idle,
            &mut self.interrupted,
            &mut self.volume,
            &mut self.address,
            &mut self.credit,
        ]
    }
}

impl Add for CostLines {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for CostLines {
    fn add_assign(&mut self, other: Self) {
        for (line, (_, amount)) in self.each_mut().into_iter().zip(other.each()) {
            *line += amount;
        }
    }
}

impl Sum for CostLines {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// The milliseconds of instances, divided in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TimeSplit {
    #[serde(skip_serializing_if = "is_zero")]
    pub boot_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub load_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub rendering_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub idle_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub interrupted_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl TimeSplit {
    pub fn total_ms(&self) -> u64 {
        self.boot_ms + self.load_ms + self.rendering_ms + self.idle_ms + self.interrupted_ms
    }
}

impl AddAssign for TimeSplit {
    fn add_assign(&mut self, other: Self) {
        self.boot_ms += other.boot_ms;
        self.load_ms += other.load_ms;
        self.rendering_ms += other.rendering_ms;
        self.idle_ms += other.idle_ms;
        self.interrupted_ms += other.interrupted_ms;
    }
}
