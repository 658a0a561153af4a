//! What each owner of keys has in the log: tasks that have not ended, and bytes. Counted by reading the log from its beginning
//! on, so another intake, or this one after a restart, comes to the same numbers.
//!
//! The janitor takes bytes out of the log without a word in it. So the count of bytes is an upper bound, and is made anew
//! from time to time.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use spotreel_api::OwnerTasks;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::EVERY_SUBJECT;
use spotreel_bus::{Recorded, TaskLog};
use spotreel_domain::{Owner, Task, TaskId};
use tokio::time::Instant;

/// Events read at once: a few megabytes of the longest prompts.
const PAGE: usize = 1_000;
/// The bytes are counted anew so often: the janitor's own hour is longer, and a full log is read in well below a minute.
const COUNT_ANEW: Duration = Duration::from_secs(15 * 60);
/// What an event holds beside the texts in it, with its headers and its place in the stream's index.
const EVENT_BYTES: u64 = 512;

pub struct Owners {
    log: TaskLog,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    owners: HashMap<Owner, Held>,
    /// Tasks of owners that have not ended.
    open: HashMap<TaskId, Owner>,
    /// The newest event that was counted.
    after: u64,
}

/// What an owner has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub tasks: u64,
    pub bytes: u64,
    /// Let in since the log was last read.
    let_in: u64,
}

impl Owners {
    pub fn new(log: TaskLog) -> Self {
        Self {
            log,
            counted: Mutex::default(),
        }
    }

    /// One more task is let in if `may` agrees to what the owner has now, which is returned.
    pub fn admit<E>(
        &self,
        owner: &Owner,
        may: impl FnOnce(Held) -> Result<(), E>,
    ) -> Result<Held, E> {
        let mut counted = self.counted.lock();
        let mut held = counted.owners.get(owner).copied().unwrap_or_default();
        held.tasks += held.let_in;
        may(held)?;
        counted.owners.entry(owner.clone()).or_default().let_in += 1;
        Ok(held)
    }

    /// Tasks that have not ended, of all owners together.
    pub fn tasks(&self) -> u64 {
        let counted = self.counted.lock();
        let owners = counted.owners.values();
        owners.map(|held| held.tasks + held.let_in).sum()
    }

    /// Owners with tasks that have not ended.
    pub fn counts(&self) -> Vec<OwnerTasks> {
        let counted = self.counted.lock();
        let owners = counted.owners.iter().map(|(owner, held)| OwnerTasks {
            owner: owner.clone(),
            tasks: held.tasks + held.let_in,
        });
        owners.filter(|one| one.tasks > 0).collect()
    }

    /// Counts what the log has got since the last time.
    pub async fn follow(&self) -> Result<(), ReadError> {
        let let_in = self.let_in();
        while self.read_on(&self.counted).await? {}
        let mut counted = self.counted.lock();
        for (owner, before) in let_in {
            if let Some(held) = counted.owners.get_mut(&owner) {
                held.let_in = held.let_in.saturating_sub(before);
            }
        }
        counted.owners.retain(|_, held| *held != Held::default());
        Ok(())
    }

    /// Counts the whole log again, beside what is counted already.
    async fn count_anew(&self) -> Result<(), ReadError> {
        let anew = Mutex::default();
        while self.read_on(&anew).await? {}
        let mut anew = anew.into_inner();
        for (owner, let_in) in self.let_in() {
            anew.owners.entry(owner).or_default().let_in = let_in;
        }
        *self.counted.lock() = anew;
        Ok(())
    }

    /// Keeps the counts until it is dropped.
    pub async fn watch(&self, every: Duration) {
        let mut counted_at = Instant::now();
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let anew = counted_at.elapsed() >= COUNT_ANEW;
            let done = match anew {
                true => self.count_anew().await,
                false => self.follow().await,
            };
            match done {
                Ok(()) if anew => counted_at = Instant::now(),
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(error = %spotreel_domain::chain(&error), "counting the owners' tasks failed");
                }
            }
        }
    }

    fn let_in(&self) -> Vec<(Owner, u64)> {
        let counted = self.counted.lock();
        let let_in = counted.owners.iter().filter(|(_, held)| held.let_in > 0);
        let_in
            .map(|(owner, held)| (owner.clone(), held.let_in))
            .collect()
    }

    /// One page. Says whether there may be more.
    async fn read_on(&self, counted: &Mutex<Counted>) -> Result<bool, ReadError> {
        let after = counted.lock().after;
        let page = self.log.page(EVERY_SUBJECT, after + 1, PAGE).await?;
        let mut counted = counted.lock();
        for recorded in &page.events {
            counted.add(recorded);
        }
        counted.after = counted.after.max(page.read_to.unwrap_or(after));
        Ok(!page.is_last)
    }
}

impl Counted {
    fn add(&mut self, recorded: &Recorded) {
        let task = &recorded.task;
        let Some(owner) = &task.owner else {
            return;
        };
        let held = self.owners.entry(owner.clone()).or_default();
        held.bytes += bytes(task);
        match task.is_terminal() {
            true => {
                if self.open.remove(&task.id).is_some() {
                    held.tasks = held.tasks.saturating_sub(1);
                }
            }
            false => {
                if self.open.insert(task.id.clone(), owner.clone()).is_none() {
                    held.tasks += 1;
                }
            }
        }
    }
}

/// About what an event of the task weighs in the log.
fn bytes(task: &Task) -> u64 {
    /// Names, times and the outcome.
    const ATTEMPT_BYTES: usize = 128;
    let spec = &task.spec;
    let labels = spec
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len());
    let texts = [&spec.negative_prompt, &spec.callback_url]
        .into_iter()
        .flatten();
    let texts = spec.prompt.len() + texts.map(String::len).sum::<usize>();
    let bytes = texts + labels.sum::<usize>() + task.attempts.len() * ATTEMPT_BYTES;
    EVENT_BYTES + bytes as u64
}
