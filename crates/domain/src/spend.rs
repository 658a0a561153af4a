//! Cost of batches within a span of time, from their records.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchId, BlockedBy, Instance, Launch, PoolName};
use crate::money::Usd;
use crate::time::elapsed;

/// What batches cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// The rate of what runs now.
    pub per_hour: Usd,
    /// Of that, the rate of instances that were not told to leave at once, at their last known prices.
    #[serde(skip)]
    pub kept_per_hour: Usd,
    pub today: Usd,
    pub this_month: Usd,
}

impl std::ops::Add for Spend {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            per_hour: self.per_hour + other.per_hour,
            kept_per_hour: self.kept_per_hour + other.kept_per_hour,
            today: self.today + other.today,
            this_month: self.this_month + other.this_month,
        }
    }
}

/// What these batches cost now, and have cost in this day and month.
pub fn spend<'a>(batches: impl IntoIterator<Item = &'a Batch> + Clone, now: Timestamp) -> Spend {
    let periods = Periods::at(now);
    Spend {
        per_hour: rate(batches.clone()),
        kept_per_hour: kept_rate(batches.clone()),
        today: spent(batches.clone(), periods.day, now),
        this_month: spent(batches, periods.month, now),
    }
}

/// The starts of the day and of the month, in UTC: budgets are kept by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    pub day: Timestamp,
    pub month: Timestamp,
}

impl Periods {
    pub fn at(now: Timestamp) -> Self {
        let today = now.to_zoned(TimeZone::UTC).date();
        let start = |date: jiff::civil::Date| {
            let midnight = date.to_zoned(TimeZone::UTC);
            midnight.map_or(now, |midnight| midnight.timestamp())
        };
        Self {
            day: start(today),
            month: start(today.first_of_month()),
        }
    }
}

/// What these batches cost from `since` to `now`. An instance that ran before `since`, too, counts by its share of time.
pub fn spent<'a>(
    batches: impl IntoIterator<Item = &'a Batch>,
    since: Timestamp,
    now: Timestamp,
) -> Usd {
    let instances = batches.into_iter().flat_map(|batch| &batch.instances);
    instances.map(|instance| share(instance, since, now)).sum()
}

/// The rate at which these batches cost now, with the instances that a launch without an answer may have started.
pub fn rate<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Usd {
    let of_one = |batch: &Batch| {
        let running = batch.instances.iter().filter(|i| !i.is_gone());
        let running: Usd = running.map(|instance| instance.rate).sum();
        running + unanswered(batch)
    };
    batches.into_iter().map(of_one).sum()
}

fn kept_rate<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Usd {
    let instances = batches.into_iter().flat_map(|batch| &batch.instances);
    let kept = instances.filter(|instance| instance.runs_on());
    kept.map(|instance| instance.rate).sum()
}

/// The rate of instances that launches without an answer may have started and no listing has shown yet, each at the
/// highest bid.
fn unanswered(batch: &Batch) -> Usd {
    let open = batch.launches.iter().filter(|launch| launch.is_open());
    let most = |launch: &Launch| {
        let request = launch.frozen_request()?;
        let offered = request.overrides.iter().filter_map(|place| place.max_price);
        Some(offered.max()?.times(batch.unseen(launch)))
    };
    open.filter_map(most).sum()
}

/// What instances will cost that batches have requested and fleet has not launched yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// As if they ran already, each at the highest price that its pool pays.
    pub per_hour: Usd,
    /// Each batch with the number of its instances.
    pub batches: Vec<(BatchId, u32)>,
}

impl Reserved {
    pub fn is_none(&self) -> bool {
        self.batches.is_empty()
    }
}

/// The money that no other pool may spend: what fleet launches next for these batches. `cap` is the highest price of a
/// pool's instance an hour.
pub fn reserved<'a>(
    batches: impl IntoIterator<Item = &'a Batch>,
    cap: impl Fn(&PoolName) -> Usd,
) -> Reserved {
    let mut reserved = Reserved::default();
    for batch in batches {
        let units = to_launch(batch);
        if units > 0 {
            reserved.per_hour += cap(&batch.id.pool).times(units);
            reserved.batches.push((batch.id.clone(), units));
        }
    }
    reserved
}

/// Number of instances that a batch requested and no launch has asked for. Once a worker serves, the remaining work decides
/// what is launched. A batch that waits for capacity, quota or money reserves nothing.
fn to_launch(batch: &Batch) -> u32 {
    let waits = |by| !matches!(by, BlockedBy::PricesUnknown | BlockedBy::CountsUnknown);
    let is_blocked = batch.blocked.as_ref().is_some_and(|b| waits(b.by));
    if !batch.is_active() || batch.stop.is_some() || batch.first_ready_at.is_some() || is_blocked {
        return 0;
    }
    let launched = batch.launches.iter().map(|launch| launch.units).sum();
    batch.units.saturating_sub(launched)
}

/// Number of batches by which the speed is measured: enough to be steady, few enough to follow a change.
const MEASURED_OVER: usize = 5;
/// Minimum number of finished tasks for a measurement.
const LEAST_MEASURED: u64 = 10;

/// Seconds that an instance took for a task, with its idle time, for sizing. The batches are of one pool, the newest first.
pub fn seconds_per_task<'a>(newest_first: impl IntoIterator<Item = &'a Batch>) -> Option<f64> {
    let served = newest_first
        .into_iter()
        .filter(|batch| batch.tasks_done > 0 && batch.first_ready_at.is_some())
        .take(MEASURED_OVER);
    let (mut tasks, mut time) = (0, Duration::ZERO);
    for batch in served {
        tasks += batch.tasks_done;
        let machines = batch.instances.iter();
        time += machines
            .filter_map(|machine| Some(elapsed(machine.ready_at?, machine.billed_to)))
            .sum::<Duration>();
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 tasks")]
    let each = time.as_secs_f64() / tasks as f64;
    (tasks >= LEAST_MEASURED && each > 0.0).then_some(each)
}

/// Mean time from an instance's launch to a serving worker. The newest batch comes first.
pub fn boot<'a>(newest_first: impl IntoIterator<Item = &'a Batch>) -> Option<Duration> {
    let served = newest_first
        .into_iter()
        .filter(|batch| batch.first_ready_at.is_some())
        .take(MEASURED_OVER);
    let machines = served.flat_map(|batch| &batch.instances);
    let boots = machines.filter_map(Instance::boot);
    let (count, sum) = boots.fold((0, Duration::ZERO), |(count, sum), one| {
        (count + 1, sum + one)
    });
    (count > 0).then(|| sum / count)
}

fn share(instance: &Instance, since: Timestamp, now: Timestamp) -> Usd {
    let end = if instance.is_gone() {
        instance.billed_to
    } else {
        now
    };
    let cost = instance.cost_at(now);
    let whole = elapsed(instance.launched_at, end);
    let within = elapsed(instance.launched_at.max(since), end);
    if within >= whole {
        return if end < since { Usd::ZERO } else { cost };
    }
    let micros = i128::from(cost.micros()) * i128::try_from(within.as_millis()).unwrap_or_default()
        / i128::try_from(whole.as_millis()).unwrap_or(1).max(1);
    Usd::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Blocked, Ending, InstanceState, LaunchState, Usage, Wanted};
    use crate::fleet::cloud::{Lifecycle, Place};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn requested(units: u32, at: Timestamp) -> Batch {
        let pool = PoolName::parse("default").unwrap();
        let wanted = Wanted {
            rule: "length".into(),
            why: "enough".into(),
            units,
            slot: None,
            deadline: at,
        };
        Batch::request(&pool, None, wanted, at).unwrap()
    }

    #[test]
    fn machines_that_are_not_launched_yet_are_paid_for_at_their_cap() {
        let mut batch = requested(14, at("2026-11-30T22:00:00Z"));
        let reserved = |batch: &Batch| reserved([batch], |_| Usd::from_cents(40)).per_hour;
        assert_eq!(reserved(&batch), Usd::from_cents(560));
        batch.launches.push(Launch {
            seq: 1,
            lifecycle: Lifecycle::Spot,
            units: 10,
            request: String::new(),
            state: LaunchState::Closed { at: batch.at },
        });
        assert_eq!(reserved(&batch), Usd::from_cents(160));
        let blocked = |by| Blocked {
            by,
            sentence: "none".into(),
            since: batch.at,
        };
        let with = |by| Batch {
            blocked: Some(blocked(by)),
            ..batch.clone()
        };
        assert_eq!(
            reserved(&with(BlockedBy::NoCapacity)),
            Usd::ZERO,
            "it waits"
        );
        let blind = with(BlockedBy::PricesUnknown);
        assert_eq!(reserved(&blind), Usd::from_cents(160), "it goes on soon");
        batch.first_ready_at = Some(batch.at);
        assert_eq!(reserved(&batch), Usd::ZERO, "the work decides now");
    }

    #[test]
    fn a_night_counts_for_both_days() {
        let from = at("2026-11-30T22:00:00Z");
        let mut batch = requested(1, from);
        let end = at("2026-12-01T02:00:00Z");
        batch.instances.push(Instance {
            id: "i-1".into(),
            place: Place {
                kind: "g6.xlarge".into(),
                zone: "us-east-2a".into(),
            },
            lifecycle: Lifecycle::Spot,
            launch: 1,
            launched_at: from,
            ready_at: None,
            state: InstanceState::Gone {
                ending: Ending::Terminated,
                at: end,
            },
            silent_since: None,
            absences: 0,
            absent_since: None,
            hinted: false,
            rate: Usd::from_cents(25),
            cost: Usd::from_cents(100),
            billed_to: end,
            usage: Usage::default(),
        });
        let noon = at("2026-12-01T12:00:00Z");
        let periods = Periods::at(noon);
        assert_eq!(periods.day, at("2026-12-01T00:00:00Z"));
        assert_eq!(periods.month, at("2026-12-01T00:00:00Z"));
        assert_eq!(spent([&batch], periods.day, noon), Usd::from_cents(50));
        assert_eq!(spent([&batch], from, noon), Usd::from_cents(100));
        assert_eq!(spent([&batch], noon, noon), Usd::ZERO);
        assert_eq!(rate([&batch]), Usd::ZERO);
    }
}
