//! What services leave for each other in the bucket of marks: the sweeper's word that all is swept, the pools' modes, and how
//! far the cost model was off.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_bus::bucket::{self, Terms};
use spotreel_bus::jetstream::ApiError;
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

#[derive(Clone, Debug, Default)]
pub struct Marks {
    swept_at: Option<Timestamp>,
    modes: BTreeMap<PoolName, ModeMark>,
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
    pub async fn read(client: &Client) -> Result<Self, ApiError> {
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
                marks.modes.insert(pool, mode);
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

    pub fn mode(&self, pool: &PoolName) -> ModeMark {
        self.modes.get(pool).cloned().unwrap_or_default()
    }

    /// How far the cost model was off for a pool's tasks; nothing before its first batch has ended.
    pub fn pace(&self, pool: &PoolName) -> Corrections {
        self.paces.get(pool).cloned().unwrap_or_default()
    }
}

pub async fn put_mode(client: &Client, pool: &PoolName, mark: &ModeMark) -> Result<(), ApiError> {
    let modes = kv::marks(client, MODE_MARK);
    let put = modes.put(pool.as_str(), mark, Terms::default()).await;
    put.map(drop)
}

pub async fn put_pace(
    client: &Client,
    pool: &PoolName,
    learnt: &Corrections,
) -> Result<(), ApiError> {
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
}
