//! What the machines cost: per second, at the price in force, as AWS documents it.
//!
//! - An instance is charged while it is `running`, and neither before nor while it shuts down. Every second that began is
//!   charged, at the price in force when it began; at least 60 seconds.
//! - A Spot instance that EC2 itself interrupts within its first hour costs nothing; if its owner ends it, it costs
//!   (AWS, "Billing for interrupted Spot Instances", Linux). Its volume and its address cost all the same.
//! - Volumes (gp3) and public IPv4 addresses are charged from launch to end, by the second, at least 60 of them.
//! - Money is whole micro-dollars. Each part of a line is summed exactly and rounded once, half up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

/// AWS, "On-Demand Pricing": "billed in one second increments, with a minimum of 60 seconds".
const SHORTEST_S: i64 = 60;
const HOUR_S: i64 = 3600;
/// AWS reckons a GB-month of EBS in its examples as 30 days.
const MONTH_S: i64 = 30 * 24 * HOUR_S;
/// Micro-dollars in us-east-2: a GB-month of gp3, and an hour of an address.
const GB_MONTH: i64 = 80_000;
const ADDRESS_HOUR: i64 = 5_000;

/// What was paid for one instance, up to now or for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BillLine {
    pub instance_id: String,
    pub kind: String,
    pub zone: String,
    pub lifecycle: String,
    /// When it was `running` first; absent: never.
    pub started_at: Option<Timestamp>,
    /// When it left `running`.
    pub ended_at: Option<Timestamp>,
    /// EC2 took it back itself.
    pub interrupted: bool,
    /// The seconds that the instance is charged for.
    pub seconds: i64,
    /// The sum of the three parts.
    pub micros: i64,
    pub compute_micros: i64,
    pub volume_micros: i64,
    pub address_micros: i64,
}

/// The account of one cloud.
#[derive(Debug, Default)]
pub struct Bill {
    entries: BTreeMap<String, Entry>,
}

/// What is billed for as long as an instance exists.
#[derive(Debug, Clone)]
pub struct Billed {
    pub kind: String,
    pub zone: String,
    pub lifecycle: String,
    pub volume_gib: i64,
    pub has_address: bool,
}

#[derive(Debug)]
struct Entry {
    of: Billed,
    launched_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    gone_at: Option<Timestamp>,
    interrupted: bool,
    /// From when which price per hour, in order of time.
    prices: BTreeMap<Timestamp, i64>,
}

impl Bill {
    /// The instance is `pending`. A second launch of the same id changes nothing.
    pub fn launched(&mut self, instance_id: &str, of: Billed, at: Timestamp) {
        self.entries
            .entry(instance_id.to_owned())
            .or_insert_with(|| Entry {
                of,
                launched_at: at,
                started_at: None,
                ended_at: None,
                gone_at: None,
                interrupted: false,
                prices: BTreeMap::new(),
            });
    }

    /// The instance is `running` from now on. A second start changes nothing.
    pub fn started(&mut self, instance_id: &str, at: Timestamp, micros_per_hour: i64) {
        if let Some(entry) = self.entries.get_mut(instance_id)
            && entry.started_at.is_none()
        {
            entry.started_at = Some(at);
            entry.prices.insert(at, micros_per_hour);
        }
    }

    /// From now on an hour of the instance costs this.
    pub fn repriced(&mut self, instance_id: &str, at: Timestamp, micros_per_hour: i64) {
        if let Some(entry) = self.entries.get_mut(instance_id)
            && let Some(started_at) = entry.started_at
        {
            entry.prices.insert(at.max(started_at), micros_per_hour);
        }
    }

    /// It left `running`: its owner or it itself ended it, or EC2 took it back. The first end counts.
    pub fn ended(&mut self, instance_id: &str, at: Timestamp, interrupted: bool) {
        if let Some(entry) = self.entries.get_mut(instance_id)
            && entry.ended_at.is_none()
        {
            entry.ended_at = Some(at);
            entry.interrupted = interrupted;
        }
    }

    /// It is `terminated`, its volume deleted and its address given back.
    pub fn gone(&mut self, instance_id: &str, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(instance_id) {
            entry.gone_at.get_or_insert(at);
        }
    }

    /// One line an instance, by id; what still runs is charged as if it ended now.
    #[must_use]
    pub fn lines(&self, now: Timestamp) -> Vec<BillLine> {
        self.entries
            .iter()
            .map(|(instance_id, entry)| entry.line(instance_id, now))
            .collect()
    }
}

impl Entry {
    fn line(&self, instance_id: &str, now: Timestamp) -> BillLine {
        let until = self.ended_at.unwrap_or(now);
        let used = self.started_at.map(|started_at| seconds(started_at, until));
        let seconds_charged = match used {
            None => 0,
            Some(used) if self.interrupted && used < HOUR_S => 0,
            Some(used) => used.max(SHORTEST_S),
        };
        let there = seconds(self.launched_at, self.gone_at.unwrap_or(now)).max(SHORTEST_S);
        let compute = self.compute(seconds_charged);
        let volume = share(self.of.volume_gib * GB_MONTH, there, MONTH_S);
        let address = match self.of.has_address {
            true => share(ADDRESS_HOUR, there, HOUR_S),
            false => 0,
        };
        BillLine {
            instance_id: instance_id.to_owned(),
            kind: self.of.kind.clone(),
            zone: self.of.zone.clone(),
            lifecycle: self.of.lifecycle.clone(),
            started_at: self.started_at,
            ended_at: self.ended_at,
            interrupted: self.interrupted,
            seconds: seconds_charged,
            micros: compute + volume + address,
            compute_micros: compute,
            volume_micros: volume,
            address_micros: address,
        }
    }

    fn compute(&self, charged: i64) -> i64 {
        let Some(started_at) = self.started_at else {
            return 0;
        };
        let ends = self.prices.keys().skip(1);
        let ends = ends.map(|at| seconds(started_at, *at)).chain([charged]);
        let mut from = 0;
        let mut sum = 0_i128; // micro-dollars × seconds: a year of a $100 machine overflows 64 bits
        for (price, end) in self.prices.values().zip(ends) {
            let until = end.clamp(from, charged.max(from));
            sum += i128::from(until - from) * i128::from(*price);
            from = until;
        }
        rounded(sum, HOUR_S)
    }
}

fn share(price: i64, seconds: i64, of: i64) -> i64 {
    rounded(i128::from(price) * i128::from(seconds), of)
}

fn rounded(sum: i128, of: i64) -> i64 {
    let of = i128::from(of);
    i64::try_from((sum + of / 2).div_euclid(of)).unwrap_or(i64::MAX)
}

/// Whole seconds; one that has begun counts.
fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    let since = to.duration_since(from);
    since.as_secs().max(0) + i64::from(since.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests;
