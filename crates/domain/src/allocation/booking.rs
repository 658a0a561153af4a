//! Books what each instance cost to the attempts that it made.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::attempt::{AttemptRecord, merged};
use super::division::{Booked, DAY_MS, Day, Machine, divide};
use super::ledger::{BatchLedger, InstanceLine};
use super::lines::{CostLines, TimeSplit};
use super::split::in_proportion;
use super::timeline::{During, Span, of_instance};
use super::waste::{Useful, loaded_at};
use crate::batch::{Batch, Instance, InstanceState};
use crate::money::Usd;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Boot,
    Load,
    Rendering,
    Idle,
    Interrupted,
}

/// A part of an instance's time: of which attempt, on which day.
type Slice = (Part, Option<usize>, Day);

type Timeline = Vec<(Span, During)>;

impl BatchLedger {
    /// As it stands `now`; final once the batch has ended. Records of other instances are ignored.
    pub fn of(batch: &Batch, records: Vec<AttemptRecord>, now: Timestamp) -> Self {
        let now = batch.ended_at.unwrap_or(now);
        let records = merged(records);
        let mut made: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let on = made.entry(record.attempt.instance.clone());
            on.or_default().push(index);
        }
        let mut instances: Vec<(&Instance, Timeline)> = Vec::new();
        for instance in &batch.instances {
            let attempts = made.get(&instance.id).map_or(&[][..], Vec::as_slice);
            let timeline = timeline(instance, attempts, &records, now);
            instances.push((instance, timeline));
        }
        instances.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        let all = instances.iter().flat_map(|(_, timeline)| timeline);
        let useful = Useful::of(&records, all, batch.ended_at);

        let mut books = Books {
            attempts: records.into_iter().map(Booked::new).collect(),
            overhead: BTreeMap::new(),
        };
        for instance in &batch.instances {
            for index in made.get(&instance.id).into_iter().flatten() {
                books.attempts[*index].machine = Some(Machine {
                    kind: instance.place.kind.clone(),
                    zone: instance.place.zone.clone(),
                    lifecycle: instance.lifecycle,
                });
            }
        }
        let lines: Vec<InstanceLine> = instances
            .iter()
            .map(|(instance, timeline)| books.book(instance, timeline, &useful, now))
            .collect();
        divide(batch, books.attempts, &books.overhead, lines)
    }
}

/// What the instance did; attempts by their indexes in `records`.
fn timeline(
    instance: &Instance,
    attempts: &[usize],
    records: &[AttemptRecord],
    now: Timestamp,
) -> Timeline {
    let Some((from, to)) = instance.ran_between(now) else {
        return Vec::new();
    };
    let life = Span {
        from: from.as_millisecond(),
        to: to.as_millisecond(),
    };
    let span = |index: &usize| {
        let attempt = &records[*index].attempt;
        let ended = attempt.ended_at.map(Timestamp::as_millisecond);
        Span {
            from: attempt.started_at.as_millisecond(),
            to: ended.unwrap_or(life.to),
        }
    };
    let spans: Vec<Span> = attempts.iter().map(span).collect();
    let served = instance.ready_at.map(Timestamp::as_millisecond);
    let mut parts = of_instance(life, served, &spans);
    for (_, during) in &mut parts {
        if let During::Attempt(at) = during {
            *at = attempts[*at];
        }
    }
    parts
}

struct Books {
    attempts: Vec<Booked>,
    /// What belongs to no attempt.
    overhead: BTreeMap<Day, CostLines>,
}

impl Books {
    /// Books all that an instance cost, and returns its line.
    fn book(
        &mut self,
        instance: &Instance,
        timeline: &Timeline,
        useful: &Useful,
        now: Timestamp,
    ) -> InstanceLine {
        let slices = self.slices(timeline, useful);
        let mut time = TimeSplit::default();
        for ((part, of, _), ms) in &slices {
            *part.time(&mut time) += ms;
            if let Some(index) = of {
                *part.time(&mut self.attempts[*index].time) += ms;
            }
        }
        let lines = self.compute(instance, slices, now) + self.presence(instance, now);
        let end = match &instance.state {
            InstanceState::Gone { ending, at } => Some((*ending, *at)),
            _ => None,
        };
        InstanceLine {
            instance: instance.id.clone(),
            kind: instance.place.kind.clone(),
            zone: instance.place.zone.clone(),
            lifecycle: instance.lifecycle,
            launched_at: instance.launched_at,
            ready_at: instance.ready_at,
            ended_at: end.map(|(_, at)| at),
            ending: end.map(|(ending, _)| ending),
            time,
            total: lines.total(),
            lines,
        }
    }

    /// The milliseconds of an instance by part, attempt and day.
    fn slices(&self, timeline: &Timeline, useful: &Useful) -> BTreeMap<Slice, u64> {
        let mut slices = BTreeMap::new();
        let mut add = |part: Part, of: Option<usize>, from: i64, to: i64| {
            for (day, ms) in days(from, to) {
                *slices.entry((part, of, day)).or_default() += ms;
            }
        };
        let mut used: BTreeMap<usize, u64> = BTreeMap::new();
        for (span, during) in timeline {
            match *during {
                During::Boot => add(Part::Boot, None, span.from, span.to),
                During::Idle => add(Part::Idle, None, span.from, span.to),
                During::Attempt(index) => {
                    let of = Some(index);
                    let loaded = loaded_at(&self.attempts[index].record, *span);
                    let used = used.entry(index).or_default();
                    let useful_to = useful.until(index, *used, loaded, span.to);
                    *used += useful_to.abs_diff(loaded);
                    add(Part::Load, of, span.from, loaded);
                    add(Part::Rendering, of, loaded, useful_to);
                    add(Part::Interrupted, of, useful_to, span.to);
                }
            }
        }
        slices
    }

    /// Divides the cost of an instance's time, and the credit of a free first hour in the same way.
    fn compute(
        &mut self,
        instance: &Instance,
        mut slices: BTreeMap<Slice, u64>,
        now: Timestamp,
    ) -> CostLines {
        if slices.is_empty() {
            // It ran for no time, and a minute is billed.
            let day = instance.launched_at.as_millisecond().div_euclid(DAY_MS);
            slices.insert((Part::Boot, None, day), 1);
        }
        let uncredited = instance.uncredited_at(now);
        let weights: Vec<u64> = slices.values().copied().collect();
        let amounts = in_proportion(uncredited, &weights);
        let weights = amounts.iter().map(|amount| amount.micros().unsigned_abs());
        let credit = instance.charges_at(now).compute - uncredited;
        let credits = in_proportion(credit, &weights.collect::<Vec<_>>());

        let mut all = CostLines::default();
        for (((part, of, day), amount), credit) in slices.into_keys().zip(amounts).zip(credits) {
            let mut lines = CostLines {
                credit,
                ..CostLines::default()
            };
            *part.line(&mut lines) = amount;
            all += lines;
            let sums = match of {
                Some(index) => &mut self.attempts[index].own,
                None => &mut self.overhead,
            };
            *sums.entry(day).or_default() += lines;
        }
        all
    }

    /// Volume and address, from launch to end.
    fn presence(&mut self, instance: &Instance, now: Timestamp) -> CostLines {
        let charges = instance.charges_at(now);
        let launched = instance.launched_at.as_millisecond();
        let gone = instance.gone_by(now).as_millisecond();
        // At least a millisecond, so that there is a day.
        let days = days(launched, gone.max(launched + 1));
        let weights: Vec<u64> = days.iter().map(|(_, ms)| *ms).collect();
        let volumes = in_proportion(charges.volume, &weights);
        let addresses = in_proportion(charges.address, &weights);
        let mut all = CostLines::default();
        for (((day, _), volume), address) in days.into_iter().zip(volumes).zip(addresses) {
            let lines = CostLines {
                volume,
                address,
                ..CostLines::default()
            };
            all += lines;
            *self.overhead.entry(day).or_default() += lines;
        }
        all
    }
}

/// The days from one time to another, with the milliseconds on each.
fn days(mut from: i64, to: i64) -> Vec<(Day, u64)> {
    let mut days = Vec::new();
    while from < to {
        let day = from.div_euclid(DAY_MS);
        let until = to.min((day + 1) * DAY_MS);
        days.push((day, until.abs_diff(from)));
        from = until;
    }
    days
}

impl Part {
    fn line(self, lines: &mut CostLines) -> &mut Usd {
        match self {
            Self::Boot => &mut lines.boot,
            Self::Load => &mut lines.load,
            Self::Rendering => &mut lines.rendering,
            Self::Idle => &mut lines.idle,
            Self::Interrupted => &mut lines.interrupted,
        }
    }

    fn time(self, time: &mut TimeSplit) -> &mut u64 {
        match self {
            Self::Boot => &mut time.boot_ms,
            Self::Load => &mut time.load_ms,
            Self::Rendering => &mut time.rendering_ms,
            Self::Idle => &mut time.idle_ms,
            Self::Interrupted => &mut time.interrupted_ms,
        }
    }
}
