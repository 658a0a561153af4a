//! Which part of an attempt was of use: all of it, or what an interruption has left.

use jiff::Timestamp;

use super::attempt::AttemptRecord;
use super::timeline::{During, Span};
use crate::task::AttemptOutcome;

/// Of each record, the milliseconds after its load that were of use. None: all of them.
pub(super) struct Useful(Vec<Option<u64>>);

impl Useful {
    /// `timelines`: what the instances of the batch did. `ended_at`: the end of the batch; what began later decides nothing.
    pub fn of<'a>(
        records: &[AttemptRecord],
        timelines: impl Iterator<Item = &'a (Span, During)>,
        ended_at: Option<Timestamp>,
    ) -> Self {
        let mut work = vec![0_u64; records.len()];
        for (span, during) in timelines {
            if let During::Attempt(index) = during {
                work[*index] += span.to.abs_diff(loaded_at(&records[*index], *span));
            }
        }
        let attempts = Attempts {
            records,
            work: &work,
            ended_at,
        };
        let all = (0..records.len()).map(|index| attempts.useful(index));
        Self(all.collect())
    }

    /// Until when the work from `from` to `to` is of use, if `used` milliseconds before it are.
    pub fn until(&self, index: usize, used: u64, from: i64, to: i64) -> i64 {
        let Some(useful) = self.0[index] else {
            return to;
        };
        let left = i64::try_from(useful.saturating_sub(used)).unwrap_or(i64::MAX);
        from.saturating_add(left).min(to)
    }
}

/// When the load of an attempt was over, within a span that belongs to it. A worker that tells how far it came, and not when
/// its work began, has come no further than the load.
pub(super) fn loaded_at(record: &AttemptRecord, span: Span) -> i64 {
    let attempt = &record.attempt;
    match (attempt.rendering_at, attempt.steps_done) {
        (Some(at), _) => at.as_millisecond().clamp(span.from, span.to),
        (None, Some(_)) => span.to,
        (None, None) => span.from,
    }
}

struct Attempts<'a> {
    records: &'a [AttemptRecord],
    /// Milliseconds after the load.
    work: &'a [u64],
    ended_at: Option<Timestamp>,
}

impl Attempts<'_> {
    fn useful(&self, index: usize) -> Option<u64> {
        let (record, attempt) = (&self.records[index], &self.records[index].attempt);
        match attempt.outcome {
            AttemptOutcome::Interrupted | AttemptOutcome::Lost => {}
            // Its instance is gone, and nobody has said yet what became of it.
            AttemptOutcome::Running if self.ended_at.is_some() => {}
            _ => return None,
        }
        let in_time = |at: Timestamp| self.ended_at.is_none_or(|end| at <= end);
        let Some(next) = record.next.filter(|next| in_time(next.started_at)) else {
            // Handed back by order, it has left a checkpoint that waits for the next worker.
            let waits = attempt.outcome == AttemptOutcome::Interrupted && attempt.error.is_none();
            return if waits { None } else { Some(0) };
        };
        let steps = u64::from(next.from_step.saturating_sub(attempt.from_step));
        if steps == 0 {
            return Some(0);
        }
        let (took, of_steps) = self.pace(index)?;
        let useful = u128::from(took) * u128::from(steps) / u128::from(of_steps);
        Some(u64::try_from(useful).unwrap_or(u64::MAX))
    }

    /// Milliseconds, and the steps that took them: of this attempt if it has told how far it came, else of the attempt of
    /// this batch that finished the task.
    fn pace(&self, index: usize) -> Option<(u64, u64)> {
        let record = &self.records[index];
        let from = record.attempt.from_step;
        let done = record
            .attempt
            .steps_done
            .map_or(0, |done| done.saturating_sub(from));
        if done > 0 {
            return Some((self.work[index], u64::from(done)));
        }
        let same = |other: &AttemptRecord| other.task == record.task && other.born == record.born;
        let mut later = (index..self.records.len()).take_while(|at| same(&self.records[*at]));
        let finished = |at: &usize| self.records[*at].attempt.outcome == AttemptOutcome::Succeeded;
        let last = later.find(finished)?;
        let attempt = &self.records[last].attempt;
        let steps = self.records[last].steps.saturating_sub(attempt.from_step);
        (steps > 0 && self.work[last] > 0).then_some((self.work[last], u64::from(steps)))
    }
}
