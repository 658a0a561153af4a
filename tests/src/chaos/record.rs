//! What clients were told, kept outside the system: the reference that it is held against.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use spotreel_domain::api::Accepted;

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

impl Record {
    pub fn book(&self) -> Book {
        self.lock().clone()
    }

    pub fn count(&self, what: impl Into<String>) {
        *self.lock().counts.entry(what.into()).or_default() += 1;
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
            (Some(old), Some(new)) if old != new => {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
