//! Slots of a cron schedule in a time zone.
//!
//! A slot is known by its civil date-time: the pattern is matched on the wall clock alone, and only then given an
//! instant. So an hour that comes twice (clocks go back) has each of its slots once, the first time round, and a slot
//! in an hour that is skipped begins at the first instant after the gap.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Slots looked through for the next one: more than the minutes of any jump of a clock, a day and a bit.
const MAX_SLOTS: usize = 1_600;
/// Slots compared to find the shortest time between two: a cron pattern that is finer within the day than it looks
/// shows it within the first day, which has at most 1,440 slots.
const SLOTS_FOR_PERIOD: usize = 1_441;
const NANOSECOND: SignedDuration = SignedDuration::from_nanos(1);

/// One time of a schedule. Displayed and stored as `2026-03-08T02:00:00[America/New_York]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    pub at: DateTime,
    pub zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a slot: expected a date-time and a zone, as 2026-03-08T02:00:00[UTC]")]
pub struct BadSlot(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    #[error("cron {cron:?} is not five fields (minute hour day month weekday): {reason}")]
    Cron { cron: String, reason: String },
    #[error("zone {0:?} is not in the time zone database")]
    Zone(String),
}

impl Slot {
    /// Slots of another zone were slots of another schedule: their wall clocks do not compare.
    pub fn is_after(&self, used: &Self) -> bool {
        self.zone != used.zone || self.at > used.at
    }
}

/// A schedule, parsed.
#[derive(Debug)]
pub struct Calendar {
    cron: Crontab,
    zone: TimeZone,
    name: String,
}

impl Calendar {
    pub fn new(cron: &str, zone: &str) -> Result<Self, BadSchedule> {
        let bad_cron = |reason: String| BadSchedule::Cron {
            cron: cron.to_owned(),
            reason,
        };
        // A sixth field would be read as the zone in which the pattern is matched.
        if cron.split_whitespace().count() != 5 {
            return Err(bad_cron("it has another number of fields".to_owned()));
        }
        Ok(Self {
            cron: cronexpr::parse_crontab(&format!("{cron} UTC"))
                .map_err(|e| bad_cron(e.to_string()))?,
            zone: TimeZone::get(zone).map_err(|_| BadSchedule::Zone(zone.to_owned()))?,
            name: zone.to_owned(),
        })
    }

    /// The newest slot that began within `window` before `now`, and when it began.
    pub fn open(&self, window: Duration, now: Timestamp) -> Option<(Slot, Timestamp)> {
        let start = now
            .checked_sub(SignedDuration::try_from(window).ok()?)
            .ok()?;
        // Where clocks went back since, the wall clock has been further than it is.
        let last = self
            .zone
            .preceding(now + NANOSECOND)
            .map(|change| change.timestamp())
            .take_while(|change| *change > start)
            .map(|change| self.zone.to_datetime(change - NANOSECOND))
            .chain([self.zone.to_datetime(now)])
            .max()?;
        self.slots_after(self.zone.to_datetime(start))
            .take_while(|slot| *slot <= last)
            .filter_map(|slot| Some((slot, self.instant(slot)?)))
            .filter(|(_, begins)| *begins > start && *begins <= now)
            .last()
            .map(|(slot, begins)| (self.slot(slot), begins))
    }

    /// The first slot that begins after `now`.
    pub fn next(&self, now: Timestamp) -> Option<(Slot, Timestamp)> {
        self.slots_after(self.zone.to_datetime(now))
            .take(MAX_SLOTS)
            .filter_map(|slot| Some((slot, self.instant(slot)?)))
            .find(|(_, begins)| *begins > now)
            .map(|(slot, begins)| (self.slot(slot), begins))
    }

    /// The shortest time between two slots on the wall clock; none if it has fewer than two.
    pub fn period(&self) -> Option<Duration> {
        let slots: Vec<_> = self
            .slots_after(jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0))
            .take(SLOTS_FOR_PERIOD)
            .collect();
        slots
            .windows(2)
            .filter_map(|pair| Duration::try_from(pair[1].duration_since(pair[0])).ok())
            .min()
    }

    /// All slots on the wall clock: matched in UTC, where every civil time comes exactly once.
    fn slots_after(&self, civil: DateTime) -> impl Iterator<Item = DateTime> {
        let start = TimeZone::UTC.to_timestamp(civil).map(MakeTimestamp);
        start
            .ok()
            .and_then(|start| self.cron.iter_after(start).ok())
            .into_iter()
            .flatten()
            .map_while(|slot| Some(slot.ok()?.datetime()))
    }

    fn instant(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        let in_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
        let instant = ambiguous.compatible().ok()?;
        if !in_gap {
            return Some(instant);
        }
        let change = self.zone.preceding(instant + NANOSECOND).next();
        Some(change.map_or(instant, |change| change.timestamp()))
    }

    fn slot(&self, at: DateTime) -> Slot {
        Slot {
            at,
            zone: self.name.clone(),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.at, self.zone)
    }
}

impl FromStr for Slot {
    type Err = BadSlot;
    fn from_str(text: &str) -> Result<Self, BadSlot> {
        let bad = || BadSlot(text.to_owned());
        let (at, zone) = text
            .strip_suffix(']')
            .and_then(|text| text.split_once('['))
            .ok_or_else(bad)?;
        Ok(Self {
            at: at.parse().map_err(|_| bad())?,
            zone: zone.to_owned(),
        })
    }
}

impl TryFrom<String> for Slot {
    type Error = BadSlot;
    fn try_from(text: String) -> Result<Self, BadSlot> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}
