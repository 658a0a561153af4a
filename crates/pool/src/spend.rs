//! What all pools cost, by the batches that have ended and those that run; and what else the ended ones tell: when one last
//! served, how many in a row never did, how fast tasks were rendered. Kept here between looks and rebuilt from the batch
//! log whenever one is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use spotreel_bus::batches::MAX_RECENT;
use spotreel_bus::log::ReadError;
use spotreel_bus::{BatchLog, RecordedBatch, Undecodable};
use spotreel_domain::batch::{Batch, BatchId, PoolName, Status};
use spotreel_domain::spend::{self, Spend};
use spotreel_domain::trigger::Past;

/// A month, and the batches that ran over its start.
const KEPT: SignedDuration = SignedDuration::from_hours(40 * 24);

/// The newest batch of each pool that has had one, read at the leader: of these pools, and of those that the configuration
/// does not have any more, since their machines cost money until they are gone.
pub async fn newest(
    log: &BatchLog,
    pools: impl IntoIterator<Item = &PoolName>,
) -> Result<BTreeMap<PoolName, RecordedBatch>, ReadError> {
    let mut all: BTreeSet<_> = log.pools().await?.into_iter().collect();
    all.extend(pools.into_iter().cloned());
    let each = all.into_iter().map(async |pool| {
        let last = log.last(&pool).await?;
        Ok::<_, ReadError>((pool, last))
    });
    let all = try_join_all(each).await?.into_iter();
    Ok(all.filter_map(|(pool, last)| Some((pool, last?))).collect())
}

#[derive(Default)]
pub struct Ledger {
    ended: BTreeMap<BatchId, Batch>,
    /// Up to which number a pool's ends have been read: what is missing below is older than what is kept.
    read_to: BTreeMap<PoolName, u64>,
}

impl Ledger {
    /// Takes in the pools' newest batches, and reads the ends of those between if there were any.
    pub async fn update(
        &mut self,
        log: &BatchLog,
        newest: &[&Batch],
        now: Timestamp,
    ) -> Result<(), ReadError> {
        for batch in newest.iter().filter(|batch| !batch.is_active()) {
            self.ended.insert(batch.id.clone(), (*batch).clone());
        }
        if newest.iter().any(|batch| self.misses_before(batch)) {
            self.read(log, now).await?;
            for batch in newest {
                self.read_to
                    .insert(batch.id.pool.clone(), batch.id.number - 1);
            }
        }
        self.forget(now);
        Ok(())
    }

    /// Drops what is too old to count. The newest that served stays, whenever that was.
    fn forget(&mut self, now: Timestamp) {
        let served = self.ended.values().filter(|b| b.first_ready_at.is_some());
        let newest: BTreeMap<_, _> = served
            .map(|batch| (batch.id.pool.clone(), batch.id.clone()))
            .collect();
        self.ended.retain(|id, batch| {
            newest.get(&id.pool) == Some(id) || batch.ended_at.is_none_or(|at| at > now - KEPT)
        });
    }

    fn misses_before(&self, batch: &Batch) -> bool {
        let (pool, before) = (batch.id.pool.clone(), batch.id.number - 1);
        let read_to = self.read_to.get(&pool).copied().unwrap_or_default();
        let id = BatchId {
            pool,
            number: before,
        };
        before > read_to && !self.ended.contains_key(&id)
    }

    async fn read(&mut self, log: &BatchLog, now: Timestamp) -> Result<(), ReadError> {
        for end in log.finals(None, now - KEPT, Undecodable::Fails).await? {
            self.ended.insert(end.batch.id.clone(), end.batch);
        }
        // A pool that has slept for longer still knows when it last served.
        let limit = usize::try_from(MAX_RECENT).unwrap_or(usize::MAX);
        for end in log.recent(limit, Undecodable::Fails).await? {
            if !end.batch.is_active() {
                self.ended.entry(end.batch.id.clone()).or_insert(end.batch);
            }
        }
        Ok(())
    }

    /// Of one pool, newest first; `newest` goes before what is kept.
    fn back<'a>(
        &'a self,
        pool: &'a PoolName,
        newest: Option<&'a Batch>,
    ) -> impl Iterator<Item = &'a Batch> {
        let first = BatchId {
            pool: pool.clone(),
            number: 0,
        };
        let last = BatchId {
            pool: pool.clone(),
            number: newest.map_or(u64::MAX, |batch| batch.id.number.saturating_sub(1)),
        };
        let kept = self.ended.range(first..=last).rev();
        newest.into_iter().chain(kept.map(|(_, batch)| batch))
    }

    pub fn past(&self, pool: &PoolName, newest: Option<&Batch>) -> Past {
        let ended = || self.back(pool, newest).filter(|batch| !batch.is_active());
        let failed: Vec<_> = ended().take_while(|batch| never_served(batch)).collect();
        let served = self
            .back(pool, newest)
            .find_map(|batch| batch.first_ready_at);
        Past {
            requested_at: newest.map(|batch| batch.requested_at),
            served_at: served,
            failed_in_row: u32::try_from(failed.len()).unwrap_or(u32::MAX),
            failed_at: failed.first().and_then(|batch| batch.ended_at),
            failure: failed.first().and_then(|batch| match &batch.status {
                Status::Failed { reason } => Some(reason.clone()),
                _ => None,
            }),
            slot: self
                .back(pool, newest)
                .find(|batch| !never_got_a_machine(batch))
                .and_then(|batch| batch.slot.as_deref())
                .and_then(|slot| slot.parse().ok()),
        }
    }

    /// Of all pools together; `newest` are their newest batches.
    pub fn spend(&self, newest: &[&Batch], now: Timestamp) -> Spend {
        let active = newest.iter().copied().filter(|batch| batch.is_active());
        spend::spend(self.ended.values().chain(active), now)
    }

    /// What the pool's machines took to boot.
    pub fn boot(&self, pool: &PoolName) -> Option<Duration> {
        spend::boot(self.back(pool, None))
    }

    pub fn seconds_per_task(&self, pool: &PoolName) -> Option<f64> {
        spend::seconds_per_task(self.back(pool, None))
    }
}

/// It was given up before a worker was ready. A batch that a person stopped says nothing of the cloud.
fn never_served(batch: &Batch) -> bool {
    batch.first_ready_at.is_none()
        && batch.stop.is_none()
        && matches!(batch.status, Status::Failed { .. })
}

/// Its launches brought nothing, so it has not used its slot of the schedule.
fn never_got_a_machine(batch: &Batch) -> bool {
    never_served(batch) && batch.instances.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotreel_domain::Usd;
    use spotreel_domain::batch::{Ending, Instance, InstanceState, Usage, Wanted};
    use spotreel_domain::fleet::cloud::{Lifecycle, Place};

    const NOW: &str = "2026-11-23T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn hours(n: i64) -> SignedDuration {
        SignedDuration::from_hours(n)
    }

    /// Asked for `ago`, ended an hour later.
    fn batch(number: u64, ago: SignedDuration, served: bool) -> Batch {
        let pool = PoolName::parse("default").unwrap();
        let from = now() - ago;
        let wanted = Wanted {
            rule: "length".into(),
            why: "enough".into(),
            units: 1,
            slot: None,
            deadline: from + hours(12),
        };
        let status = match served {
            true => Status::Settled,
            false => Status::Failed {
                reason: "no capacity".into(),
            },
        };
        Batch {
            id: BatchId {
                pool: pool.clone(),
                number,
            },
            status,
            first_ready_at: served.then(|| from + hours(1)),
            ended_at: Some(from + hours(1)),
            ..Batch::request(&pool, None, wanted, from).unwrap()
        }
    }

    fn machine(ready: i64, end: i64) -> Instance {
        Instance {
            id: format!("i-{ready}-{end}"),
            place: Place {
                kind: "g6.xlarge".into(),
                zone: "us-east-2a".into(),
            },
            lifecycle: Lifecycle::Spot,
            launch: 1,
            launched_at: now() - hours(5),
            ready_at: Some(now() - hours(ready)),
            state: InstanceState::Gone {
                ending: Ending::Terminated,
                at: now() - hours(end),
            },
            silent_since: None,
            absences: 0,
            absent_since: None,
            hinted: false,
            rate: Usd::from_cents(30),
            cost: Usd::from_cents(60),
            billed_to: now() - hours(end),
            usage: Usage::default(),
        }
    }

    fn ledger(batches: Vec<Batch>) -> Ledger {
        let ended = batches.into_iter().map(|one| (one.id.clone(), one));
        Ledger {
            ended: ended.collect(),
            read_to: BTreeMap::new(),
        }
    }

    #[test]
    fn failures_in_a_row_end_at_the_last_batch_that_served() {
        let pool = PoolName::parse("default").unwrap();
        let mut ledger = ledger(vec![
            batch(1, hours(9), false),
            batch(2, hours(7), true),
            batch(3, hours(5), false),
        ]);
        let newest = batch(4, hours(3), false);
        let past = ledger.past(&pool, Some(&newest));
        assert_eq!(past.served_at, Some(now() - hours(6)));
        assert_eq!((past.failed_in_row, past.failed_at), (2, newest.ended_at));
        assert_eq!(past.failure.as_deref(), Some("no capacity"));

        // One that a person stopped says nothing of the cloud.
        let stopped = ledger.ended.values_mut().last().unwrap();
        stopped.stop = Some(spotreel_domain::batch::Stop {
            mode: spotreel_domain::batch::DrainMode::Finish,
            by: "ada".into(),
            reason: None,
            at: now(),
        });
        assert_eq!(ledger.past(&pool, Some(&newest)).failed_in_row, 1);
        assert_eq!(ledger.past(&pool, None).failed_in_row, 0);
    }

    #[test]
    fn a_slot_is_used_by_a_batch_that_got_a_machine() {
        let pool = PoolName::parse("default").unwrap();
        let slot = |day: u32| Some(format!("2026-11-{day}T02:00:00[UTC]"));
        let mut with_a_machine = batch(1, hours(30), true);
        with_a_machine.slot = slot(22);
        with_a_machine.instances = vec![machine(29, 28)];
        let ledger = ledger(vec![with_a_machine]);
        let mut newest = batch(2, hours(2), false);
        newest.slot = slot(23);
        let used = |newest: &Batch| ledger.past(&pool, Some(newest)).slot.unwrap().to_string();
        assert_eq!(used(&newest), slot(22).unwrap(), "it never got one");
        newest.instances = vec![machine(2, 1)];
        assert_eq!(used(&newest), slot(23).unwrap());
        newest.instances.clear();
        newest.status = Status::Requested;
        assert_eq!(used(&newest), slot(23).unwrap(), "it may still get one");
    }

    #[test]
    fn what_is_old_is_forgotten_but_not_when_a_pool_last_served() {
        let mut ledger = ledger(vec![
            batch(1, hours(24 * 60), true),
            batch(2, hours(24 * 50), true),
            batch(3, hours(24 * 45), false),
            batch(4, hours(24), false),
        ]);
        ledger.forget(now());
        let kept: Vec<_> = ledger.ended.keys().map(|id| id.number).collect();
        assert_eq!(kept, [2, 4]);
    }

    #[test]
    fn a_gap_is_read_once() {
        let mut ledger = ledger(vec![batch(2, hours(7), true)]);
        assert!(!ledger.misses_before(&batch(1, hours(9), true)));
        assert!(!ledger.misses_before(&batch(3, hours(5), true)));
        let fifth = batch(5, hours(1), true);
        assert!(ledger.misses_before(&fifth));
        ledger.read_to.insert(fifth.id.pool.clone(), 4);
        assert!(!ledger.misses_before(&fifth));
    }

    #[test]
    fn speed_is_what_machines_that_served_took_for_a_task() {
        let pool = PoolName::parse("default").unwrap();
        let mut one = batch(1, hours(5), true);
        one.tasks_done = 9;
        one.instances = vec![machine(4, 2), machine(3, 2)];
        assert_eq!(ledger(vec![one.clone()]).seconds_per_task(&pool), None);
        one.tasks_done = 30;
        assert_eq!(ledger(vec![one]).seconds_per_task(&pool), Some(360.0));
    }
}
