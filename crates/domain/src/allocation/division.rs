//! Divides what belongs to no attempt among the tasks of a batch, and adds everything up.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::attempt::AttemptRecord;
use super::ledger::{AttemptLine, BatchLedger, CostCell, InstanceLine, TaskShare};
use super::lines::{CostLines, TimeSplit};
use super::split::in_proportion;
use crate::api_key::Owner;
use crate::batch::Batch;
use crate::fleet::cloud::Lifecycle;
use crate::model::Model;
use crate::money::Usd;
use crate::task::AttemptOutcome;

pub(super) const DAY_MS: i64 = 24 * 3_600_000;
/// Days since 1970, in UTC.
pub(super) type Day = i64;

/// An attempt with what it cost.
pub(super) struct Booked {
    pub record: AttemptRecord,
    /// None: the instance is not of this batch, and the attempt does not count.
    pub machine: Option<Machine>,
    pub time: TimeSplit,
    pub own: BTreeMap<Day, CostLines>,
}

pub(super) struct Machine {
    pub kind: String,
    pub zone: String,
    pub lifecycle: Lifecycle,
}

impl Booked {
    pub fn new(record: AttemptRecord) -> Self {
        Self {
            record,
            machine: None,
            time: TimeSplit::default(),
            own: BTreeMap::new(),
        }
    }
}

/// A task with its costs by day.
struct Sum {
    share: TaskShare,
    days: BTreeMap<Day, CostLines>,
    videos: BTreeMap<Day, u64>,
}

/// `attempts` are in order of their tasks.
pub(super) fn divide(
    batch: &Batch,
    attempts: Vec<Booked>,
    overhead: &BTreeMap<Day, CostLines>,
    instances: Vec<InstanceLine>,
) -> BatchLedger {
    let mut sums = by_task(attempts);
    let mut cells = Cells::default();
    let mut unallocated = CostLines::default();
    let weights = weights(&sums);
    for (day, lines) in overhead {
        match &weights {
            Some(weights) => {
                for (sum, part) in sums.iter_mut().zip(divided(*lines, weights)) {
                    *sum.days.entry(*day).or_default() += part;
                }
            }
            None => {
                unallocated += *lines;
                cells.add_unallocated(*day, *lines);
            }
        }
    }
    for sum in &mut sums {
        sum.share.lines = sum.days.values().copied().sum();
        sum.share.total = sum.share.lines.total();
        cells.add(sum);
    }
    let lines: CostLines = instances.iter().map(|line| line.lines).sum();
    BatchLedger {
        batch: batch.id.clone(),
        requested_at: batch.requested_at,
        ended_at: batch.ended_at,
        total: lines.total(),
        lines,
        unallocated,
        task_count: sums.len(),
        instances,
        tasks: sums.into_iter().map(|sum| sum.share).collect(),
        cells: cells.into_cells(),
    }
}

fn by_task(attempts: Vec<Booked>) -> Vec<Sum> {
    let mut sums: Vec<Sum> = Vec::new();
    for attempt in attempts {
        let Booked {
            record,
            machine: Some(machine),
            time,
            own,
        } = attempt
        else {
            continue;
        };
        let same = |last: &&mut Sum| last.share.task == record.task;
        if sums.last_mut().filter(same).is_none() {
            sums.push(Sum {
                share: TaskShare::of(&record),
                days: BTreeMap::new(),
                videos: BTreeMap::new(),
            });
        }
        // Two lives of an id share a line.
        let Some(sum) = sums.last_mut() else { continue };
        let line = AttemptLine::of(&record, machine, time, own.values().copied().sum());
        if let Some(ended_at) = line
            .ended_at
            .filter(|_| line.outcome == AttemptOutcome::Succeeded)
        {
            let day = ended_at.as_millisecond().div_euclid(DAY_MS);
            *sum.videos.entry(day).or_default() += 1;
        }
        sum.share.time += time;
        sum.share.attempts.push(line);
        for (day, lines) in own {
            *sum.days.entry(day).or_default() += lines;
        }
    }
    sums
}

/// By rendering time; where nothing was rendered, by the other time of the attempts; none: no attempt was made.
fn weights(sums: &[Sum]) -> Option<Vec<u64>> {
    let weigh = |of: fn(&TimeSplit) -> u64| {
        let weights: Vec<u64> = sums.iter().map(|sum| of(&sum.share.time)).collect();
        weights.iter().any(|weight| *weight > 0).then_some(weights)
    };
    weigh(|time| time.rendering_ms).or_else(|| weigh(TimeSplit::total_ms))
}

/// Each line in proportion to the weights.
fn divided(lines: CostLines, weights: &[u64]) -> Vec<CostLines> {
    let mut shares = vec![CostLines::default(); weights.len()];
    for (index, (_, amount)) in lines.each().into_iter().enumerate() {
        if amount == Usd::ZERO {
            continue;
        }
        for (share, part) in shares.iter_mut().zip(in_proportion(amount, weights)) {
            *share.each_mut()[index] = part;
        }
    }
    shares
}

impl TaskShare {
    fn of(record: &AttemptRecord) -> Self {
        Self {
            task: record.task.clone(),
            owner: record.owner.clone(),
            model: record.model,
            labels: record.labels.clone(),
            total: Usd::ZERO,
            lines: CostLines::default(),
            time: TimeSplit::default(),
            attempts: Vec::new(),
        }
    }
}

impl AttemptLine {
    fn of(record: &AttemptRecord, machine: Machine, time: TimeSplit, lines: CostLines) -> Self {
        let attempt = &record.attempt;
        Self {
            number: record.number,
            instance: attempt.instance.clone(),
            kind: machine.kind,
            zone: machine.zone,
            lifecycle: machine.lifecycle,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            outcome: attempt.outcome,
            from_step: attempt.from_step,
            time,
            total: lines.total(),
            lines,
        }
    }
}

/// Of which day, owner, model and labels.
type CellKey = (Day, Option<Owner>, Option<Model>, BTreeMap<String, String>);

#[derive(Default)]
struct Cells(BTreeMap<CellKey, (CostLines, u64)>);

impl Cells {
    fn add(&mut self, sum: &Sum) {
        let TaskShare {
            owner,
            model,
            labels,
            ..
        } = &sum.share;
        let key = |day: &Day| (*day, owner.clone(), Some(*model), labels.clone());
        for (day, lines) in &sum.days {
            self.0.entry(key(day)).or_default().0 += *lines;
        }
        for (day, count) in &sum.videos {
            self.0.entry(key(day)).or_default().1 += count;
        }
    }

    fn add_unallocated(&mut self, day: Day, lines: CostLines) {
        let key = (day, None, None, BTreeMap::new());
        self.0.entry(key).or_default().0 += lines;
    }

    fn into_cells(self) -> Vec<CostCell> {
        let tells =
            |(lines, videos): &(CostLines, u64)| *lines != CostLines::default() || *videos > 0;
        let cells = self.0.into_iter().filter(|(_, sums)| tells(sums));
        cells
            .map(|((day, owner, model, labels), (lines, videos))| CostCell {
                day: date(day),
                owner,
                model,
                labels,
                lines,
                videos,
            })
            .collect()
    }
}

fn date(day: Day) -> Date {
    let midnight = Timestamp::from_millisecond(day.saturating_mul(DAY_MS));
    let midnight = midnight.unwrap_or(Timestamp::UNIX_EPOCH);
    midnight.to_zoned(TimeZone::UTC).date()
}
