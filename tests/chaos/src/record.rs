//! What clients were told, kept outside the system: the reference that it is held against.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use spotreel_api::Accepted;
use spotreel_bootstrap::ambient;

/// The reference, shared by everybody who acts.
#[derive(Debug, Default)]
pub struct Record(Mutex<Book>);

#[derive(Clone, Debug, Default)]
pub struct Book {
    /// By draft: acknowledged in whatever way, so it must come to an end.
    pub tasks: BTreeMap<usize, Acknowledged>,
    /// Sent without a name, and the answer was lost: a task may or may not be there.
    pub unanswered: Vec<usize>,
    /// Refused messages of the inbox whose publication was acknowledged, by what their event is named after.
    pub refusals: Vec<Refusal>,
    /// What one client was told against what another was told.
    pub contradictions: Vec<String>,
    pub counts: BTreeMap<String, usize>,
    /// What was done to machines.
    pub accidents: Vec<Accident>,
    /// When NATS or S3 was away or ill.
    pub outages: Vec<Outage>,
    /// When the price of which type was moved.
    pub price_moves: Vec<(&'static str, Timestamp)>,
}

/// Something that was done to one machine.
#[derive(Clone, Debug)]
pub struct Accident {
    pub instance: String,
    pub kind: &'static str,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Outage {
    pub of: &'static str,
    pub from: Timestamp,
    pub to: Option<Timestamp>,
}

impl Accident {
    pub const NOTICE: &'static str = "notice";
    pub const REBALANCE: &'static str = "rebalance";
    pub const SILENT: &'static str = "silent";
    pub const KILL: &'static str = "kill -9 worker";
    pub const FREEZE: &'static str = "worker frozen past its lease";
    pub const STOP: &'static str = "worker told to stop";
    pub const SICK: &'static str = "scratch gone";

    pub fn is_notice(&self) -> bool {
        self.kind == Self::NOTICE
    }

    pub fn is_without_a_word(&self) -> bool {
        matches!(self.kind, Self::SILENT | Self::KILL | Self::FREEZE)
    }
}

impl Book {
    /// Whether NATS or S3 was away or ill at some time in between.
    pub fn is_outage(&self, from: Timestamp, to: Timestamp) -> bool {
        let overlaps =
            |outage: &Outage| outage.from <= to && outage.to.is_none_or(|end| end >= from);
        self.outages.iter().any(overlaps)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// None: the server chose it and told nobody (the inbox).
    pub id: Option<String>,
    pub answer: Option<Accepted>,
    pub cancelled: bool,
    pub retries_sent: u32,
    pub retries_confirmed: u32,
}

#[derive(Clone, Debug)]
pub enum Refusal {
    /// `spotreel.task.<id>.rejected`
    Task(String),
    /// `spotreel.rejected.<sequence>`
    Sequence(u64),
}

/// The same task, which may have gone on meanwhile.
fn is_same(old: &Accepted, new: &Accepted) -> bool {
    let task = |answer: &Accepted| (answer.id.clone(), answer.seed, answer.submitted_at);
    task(old) == task(new)
}

impl Record {
    pub fn book(&self) -> Book {
        self.lock().clone()
    }

    pub fn count(&self, what: impl Into<String>) {
        *self.lock().counts.entry(what.into()).or_default() += 1;
    }

    pub fn accident(&self, instance: &str, kind: &'static str) {
        let at = ambient::now();
        let mut book = self.lock();
        let count = book.counts.entry(format!("machine: {kind}")).or_default();
        *count += 1;
        book.accidents.push(Accident {
            instance: instance.to_owned(),
            kind,
            at,
        });
    }

    pub fn price_moved(&self, kind: &'static str) {
        let now = ambient::now();
        self.lock().price_moves.push((kind, now));
    }

    pub fn outage_begins(&self, of: &'static str) {
        let from = ambient::now();
        self.lock().outages.push(Outage { of, from, to: None });
    }

    pub fn outage_ends(&self, of: &'static str) {
        let now = ambient::now();
        for outage in &mut self.lock().outages {
            if outage.of == of {
                outage.to.get_or_insert(now);
            }
        }
    }

    /// The system promised to see it through.
    pub fn acknowledged(&self, draft: usize, id: Option<String>, answer: Option<Accepted>) {
        let mut book = self.lock();
        let known = book.tasks.entry(draft).or_default();
        let mut contradiction = None;
        match (&known.id, &id) {
            (Some(old), Some(new)) if old != new => {
                contradiction = Some(format!("#{draft} was named {old} and {new}"));
            }
            (None, Some(_)) => known.id = id,
            _ => {}
        }
        match (&known.answer, &answer) {
            (Some(old), Some(new)) if !is_same(old, new) => {
                contradiction = Some(format!("#{draft} was answered {old:?} and {new:?}"));
            }
            (None, Some(_)) => known.answer = answer,
            _ => {}
        }
        book.contradictions.extend(contradiction);
    }

    pub fn contradiction(&self, what: String) {
        self.lock().contradictions.push(what);
    }

    pub fn unanswered(&self, draft: usize) {
        self.lock().unanswered.push(draft);
    }

    pub fn refusal(&self, refusal: Refusal) {
        self.lock().refusals.push(refusal);
    }

    pub fn change(&self, draft: usize, change: impl FnOnce(&mut Acknowledged)) {
        change(self.lock().tasks.entry(draft).or_default());
    }

    /// The id that the server goes by, once somebody was told.
    pub fn id(&self, draft: usize) -> Option<String> {
        self.lock().tasks.get(&draft)?.id.clone()
    }

    /// Nobody will ever be told its id.
    pub fn is_nameless(&self, draft: usize) -> bool {
        let book = self.lock();
        book.unanswered.contains(&draft)
            || book
                .tasks
                .get(&draft)
                .is_some_and(|known| known.id.is_none())
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock()
    }
}
