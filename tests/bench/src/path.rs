//! What happened between two moments, and how late each of it was: so that a figure can be read, not only quoted.

use std::collections::BTreeMap;

use super::samples::Samples;
use super::stage::Stage;
use super::tap::TAKEN_BACK;

/// Rounds of one path.
#[derive(Default)]
pub struct Path {
    /// Milliseconds from the first moment to the second.
    pub took: Samples,
    /// Durable writes in between: of the batch log and of presences.
    writes: Samples,
    /// Calls of EC2 in between, without the one that ends the path.
    calls: Samples,
    steps: BTreeMap<(String, usize), Samples>,
}

impl Path {
    /// One round: from `zero` to `end`. What happened since `began` is part of it: a service may hear of a write before
    /// its author has the ack.
    pub fn add(&mut self, stage: &Stage, began: i64, zero: i64, end: i64) {
        let later = |at: i64| ms_between(zero, at);
        self.took.add(later(end));
        let heard = stage.tap.between(began, end).into_iter();
        let writes: Vec<_> = heard
            // A worker that leaves takes its word back beside all else.
            .filter(|heard| !heard.what.starts_with("task ") && heard.what != TAKEN_BACK)
            .map(|heard| (heard.at, heard.what))
            .collect();
        let calls = stage.calls(began, end - 1).into_iter();
        let calls: Vec<_> = calls.map(|(at, call)| (at, call.action)).collect();
        self.writes.add(count(writes.len()));
        self.calls.add(count(calls.len()));
        let mut seen = BTreeMap::<String, usize>::new();
        let mut all: Vec<_> = writes.into_iter().chain(calls).collect();
        all.sort();
        for (at, what) in all {
            let nth = seen.entry(what.clone()).or_default();
            *nth += 1;
            self.steps.entry((what, *nth)).or_default().add(later(at));
        }
    }

    /// As many as most rounds have.
    pub fn writes(&self) -> f64 {
        self.writes.p50()
    }

    pub fn calls(&self) -> f64 {
        self.calls.p50()
    }

    /// What most rounds have in common, in order, each with its median distance from the first moment.
    pub fn story(&self) -> String {
        let rounds = self.took.count();
        let common = self
            .steps
            .iter()
            .filter(|(_, late)| 2 * late.count() > rounds);
        let mut steps: Vec<_> = common
            .map(|((what, _), late)| (late.p50(), what.as_str()))
            .collect();
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let told: Vec<_> = steps
            .iter()
            .map(|(late, what)| format!("{what} {late:.1}"))
            .collect();
        told.join(", ")
    }
}

pub fn ms_between(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1_000.0
}

fn count(n: usize) -> f64 {
    n as f64
}
