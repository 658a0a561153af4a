//! What services leave for each other in the bucket of marks: the sweeper's word that all is swept, the pools' modes, and how
//! far the cost model was off.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_bus::bucket::{self, Terms};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::kv;
use spotreel_bus::names::{MARKS_BUCKET, PACE_MARK, SWEEPER_MARK};
use spotreel_domain::batch::PoolName;
use spotreel_domain::render_time::Corrections;
use spotreel_domain::trigger::ModeState;

/// Maximum age of the sweeper's status record at which queue counts are trusted: counts are true only if finished tasks leave the
/// queue. It is ten intervals, so that one or two records may be late.
pub const SWEPT_GOOD_FOR: Duration = Duration::from_secs(30);
/// One mark a pool: whether machines stay.
const MODE_MARK: &str = "mode.";
/// How long the number of machines that stay is believed after trigger wrote it: three times as long as trigger takes to
/// write it anew, so that a restart or an upgrade of trigger changes nothing.
pub const MODE_GOOD_FOR: Duration = Duration::from_secs(15 * 60);
const MODE_WRITTEN_EVERY: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Debug, Default)]
pub struct Marks {
    swept_at: Option<Timestamp>,
    /// Each with the time at which the server stored it.
    modes: BTreeMap<PoolName, (ModeMark, Timestamp)>,
    paces: BTreeMap<PoolName, Corrections>,
}

/// What trigger writes down of a pool's mode; fleet keeps that number of units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModeMark {
    #[serde(flatten)]
    pub state: ModeState,
    pub resident_units: u32,
}

/// Why the counts cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSwept {
    #[error("the sweeper's status record is missing: check that monitor runs")]
    Never,
    #[error(
        "the sweeper's status record is out of date since {0:.0}: finished tasks may still be counted"
    )]
    Since(Timestamp),
}

impl Marks {
    pub async fn read(client: &Client) -> Result<Self, JetStreamError> {
        #[derive(Deserialize)]
        struct Swept {
            at: Timestamp,
        }
        let (modes, paces) = (format!("{MODE_MARK}>"), format!("{PACE_MARK}>"));
        let patterns = [SWEEPER_MARK, &modes, &paces];
        let mut marks = Self::default();
        // One that another version wrote is as one that is not there.
        for entry in bucket::read(client, MARKS_BUCKET, &patterns).await? {
            let pool = |prefix: &str| PoolName::parse(entry.key.strip_prefix(prefix)?).ok();
            if entry.key == SWEEPER_MARK {
                let mark: Option<Swept> = entry.json().ok();
                marks.swept_at = mark.map(|mark| mark.at);
            } else if let Some(pool) = pool(MODE_MARK)
                && let Ok(mode) = entry.json()
            {
                marks.modes.insert(pool, (mode, entry.stored_at));
            } else if let Some(pool) = pool(PACE_MARK)
                && let Ok(pace) = entry.json()
            {
                marks.paces.insert(pool, pace);
            }
        }
        Ok(marks)
    }

    /// Whether the counts of the queues can be trusted.
    pub fn swept(&self, now: Timestamp) -> Result<(), NotSwept> {
        let good_until = self.swept_at.ok_or(NotSwept::Never)? + SWEPT_GOOD_FOR;
        match good_until > now {
            true => Ok(()),
            false => Err(NotSwept::Since(good_until)),
        }
    }

    /// As trigger wrote it last, whenever that was.
    pub fn mode(&self, pool: &PoolName) -> ModeMark {
        let mark = self.modes.get(pool).map(|(mark, _)| mark.clone());
        mark.unwrap_or_default()
    }

    /// Number of machines that stay without work. While trigger has been silent for long it is not known: then none is
    /// bought for it, and of the machines that are `there` none has to leave that would have stayed.
    pub fn resident_units(&self, pool: &PoolName, there: u32, now: Timestamp) -> u32 {
        match self.modes.get(pool) {
            None => 0,
            Some((mark, at)) if *at + MODE_GOOD_FOR > now => mark.resident_units,
            Some((mark, _)) => mark.resident_units.min(there),
        }
    }

    /// Whether the mark has to be written anew, although it says the same: a number that is not zero grows old.
    pub fn mode_is_due(&self, pool: &PoolName, now: Timestamp) -> bool {
        let mark = self.modes.get(pool);
        mark.is_some_and(|(mark, at)| mark.resident_units > 0 && *at + MODE_WRITTEN_EVERY <= now)
    }

    /// How far the cost model was off for a pool's tasks; nothing before its first batch has ended.
    pub fn pace(&self, pool: &PoolName) -> Corrections {
        self.paces.get(pool).cloned().unwrap_or_default()
    }
}

pub async fn put_mode(
    client: &Client,
    pool: &PoolName,
    mark: &ModeMark,
) -> Result<(), JetStreamError> {
    let modes = kv::marks(client, MODE_MARK);
    let put = modes.put(pool.as_str(), mark, Terms::default()).await;
    put.map(drop)
}

pub async fn put_pace(
    client: &Client,
    pool: &PoolName,
    learnt: &Corrections,
) -> Result<(), JetStreamError> {
    let paces = kv::marks(client, PACE_MARK);
    let put = paces.put(pool.as_str(), learnt, Terms::default()).await;
    put.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_trusted_for_a_while_after_the_sweepers_mark() {
        let swept: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
        let marks = Marks {
            swept_at: Some(swept),
            ..Marks::default()
        };
        let last = swept + SWEPT_GOOD_FOR;
        assert_eq!(marks.swept(last - Duration::from_nanos(1)), Ok(()));
        assert_eq!(marks.swept(last), Err(NotSwept::Since(last)));
        assert_eq!(Marks::default().swept(swept), Err(NotSwept::Never));
    }

    #[test]
    fn an_old_number_of_machines_that_stay_buys_none_and_sends_none_away() {
        let written: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
        let pool = PoolName::parse("default").unwrap();
        let mark = ModeMark {
            resident_units: 4,
            ..ModeMark::default()
        };
        let marks = Marks {
            modes: [(pool.clone(), (mark, written))].into(),
            ..Marks::default()
        };
        let stay = |there, at| marks.resident_units(&pool, there, at);
        let old = written + MODE_GOOD_FOR;
        assert_eq!(stay(1, old - Duration::from_nanos(1)), 4);
        assert_eq!([0, 1, 6].map(|there| stay(there, old)), [0, 1, 4]);
        // Trigger writes it anew in time.
        assert!(!marks.mode_is_due(&pool, written));
        assert!(marks.mode_is_due(&pool, old - 2 * MODE_WRITTEN_EVERY));
    }

    #[test]
    fn a_mark_without_machines_that_stay_never_grows_old() {
        let written: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
        let pool = PoolName::parse("default").unwrap();
        let marks = Marks {
            modes: [(pool.clone(), (ModeMark::default(), written))].into(),
            ..Marks::default()
        };
        let later = written + 10 * MODE_GOOD_FOR;
        assert_eq!(marks.resident_units(&pool, 3, later), 0);
        assert!(!marks.mode_is_due(&pool, later));
    }
}
