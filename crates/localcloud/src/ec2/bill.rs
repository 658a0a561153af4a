//! What the machines cost: per second, at the price in force, as AWS documents it.
//!
//! - Every second that began is charged, at the price in force when it began; at least 60 seconds.
//! - A Spot instance that EC2 itself interrupts within its first hour costs nothing; if its owner ends it, it costs
//!   (AWS, "Billing for interrupted Spot Instances", Linux).
//! - Money is whole micro-dollars. A line is summed exactly and rounded once, half up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

/// AWS, "On-Demand Pricing": "billed in one second increments, with a minimum of 60 seconds".
const SHORTEST_S: i64 = 60;
const HOUR_S: i64 = 3600;

/// What was paid for one instance, up to now or for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub instance_id: String,
    pub kind: String,
    pub zone: String,
    pub lifecycle: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// EC2 took it back itself.
    pub interrupted: bool,
    /// The seconds that are charged.
    pub seconds: i64,
    pub micros: i64,
}

/// The account of one cloud.
#[derive(Debug, Default)]
pub struct Bill {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    kind: String,
    zone: String,
    lifecycle: String,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    interrupted: bool,
    /// From when which price per hour, in order of time.
    prices: BTreeMap<Timestamp, i64>,
}

impl Bill {
    /// The instance runs from now on. A second start of the same id changes nothing.
    pub fn started(
        &mut self,
        instance_id: &str,
        kind: &str,
        zone: &str,
        lifecycle: &str,
        at: Timestamp,
        micros_per_hour: i64,
    ) {
        self.entries
            .entry(instance_id.to_owned())
            .or_insert_with(|| Entry {
                kind: kind.to_owned(),
                zone: zone.to_owned(),
                lifecycle: lifecycle.to_owned(),
                started_at: at,
                ended_at: None,
                interrupted: false,
                prices: BTreeMap::from([(at, micros_per_hour)]),
            });
    }

    /// From now on an hour of the instance costs this.
    pub fn repriced(&mut self, instance_id: &str, at: Timestamp, micros_per_hour: i64) {
        if let Some(entry) = self.entries.get_mut(instance_id) {
            entry
                .prices
                .insert(at.max(entry.started_at), micros_per_hour);
        }
    }

    /// Its owner ended it, or it ended itself. The first end counts.
    pub fn ended(&mut self, instance_id: &str, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(instance_id) {
            entry.ended_at.get_or_insert(at);
        }
    }

    /// EC2 took it back. The first end counts.
    pub fn interrupted(&mut self, instance_id: &str, at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(instance_id)
            && entry.ended_at.is_none()
        {
            entry.ended_at = Some(at);
            entry.interrupted = true;
        }
    }

    /// One line an instance, by id; what still runs is charged as if it ended now.
    #[must_use]
    pub fn lines(&self, now: Timestamp) -> Vec<Line> {
        self.entries
            .iter()
            .map(|(instance_id, entry)| entry.line(instance_id, now))
            .collect()
    }
}

impl Entry {
    fn line(&self, instance_id: &str, now: Timestamp) -> Line {
        let used = self.offset(self.ended_at.unwrap_or(now));
        let free = self.interrupted && used < HOUR_S;
        let seconds = if free { 0 } else { used.max(SHORTEST_S) };
        Line {
            instance_id: instance_id.to_owned(),
            kind: self.kind.clone(),
            zone: self.zone.clone(),
            lifecycle: self.lifecycle.clone(),
            started_at: self.started_at,
            ended_at: self.ended_at,
            interrupted: self.interrupted,
            seconds,
            micros: self.micros(seconds),
        }
    }

    fn micros(&self, seconds: i64) -> i64 {
        let ends = self.prices.keys().skip(1).map(|at| self.offset(*at));
        let ends = ends.chain([seconds]);
        let mut from = 0;
        let mut sum = 0_i128; // micro-dollars × seconds: a year of a $100 machine overflows 64 bits
        for (price, end) in self.prices.values().zip(ends) {
            let until = end.clamp(from, seconds.max(from));
            sum += i128::from(until - from) * i128::from(*price);
            from = until;
        }
        let hour = i128::from(HOUR_S);
        i64::try_from((sum + hour / 2).div_euclid(hour)).unwrap_or(i64::MAX)
    }

    /// Whole seconds since the start; one that has begun counts.
    fn offset(&self, at: Timestamp) -> i64 {
        let since = at.duration_since(self.started_at);
        since.as_secs().max(0) + i64::from(since.subsec_nanos() > 0)
    }
}

#[cfg(test)]
mod tests;
