//! The oldest waiting task of each queue, without a search in each pass.
//!
//! To find the next entry by its subject, the server goes through all subjects of the log: a tenth of a second with a
//! million tasks. So some entries are read at once and kept. Nothing can come before or between them, since entries are
//! numbered as they come; they only vanish. That one is still there is asked by its number, which costs the same however
//! long the queue is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use parking_lot::Mutex;
use spotreel_bus::log::ReadError;
use spotreel_bus::{TaskLog, names};
use spotreel_domain::{Lane, Model, TaskId};

/// Number of tasks that are searched for the oldest waiting one: the oldest may be in workers' hands.
const MOST_LOOKED_THROUGH: usize = 64;

/// What is kept of each queue.
#[derive(Default)]
pub struct Oldest(Mutex<BTreeMap<(Model, Lane), Front>>);

/// The entries of a queue from its oldest unfinished one on, in order and without a gap.
#[derive(Default)]
struct Front {
    /// All entries up to it were finished when the others were read.
    acked_to: u64,
    entries: VecDeque<QueueEntry>,
}

struct QueueEntry {
    sequence: u64,
    id: TaskId,
    stored_at: Timestamp,
}

impl Oldest {
    /// When the first entry came that is behind those that were acked and that no worker says it has in hand.
    pub async fn waiting(
        &self,
        log: &TaskLog,
        queue: (Model, Lane),
        acked_to: u64,
        in_hand: &BTreeSet<&str>,
    ) -> Result<Option<Timestamp>, ReadError> {
        let mut front = self.lock().remove(&queue).unwrap_or_default();
        front.advance(acked_to);
        let mut found = front.first(log, in_hand).await?;
        if found.is_none() {
            let filter = names::work_filter(queue.0, queue.1);
            let page = log.page(&filter, acked_to + 1, MOST_LOOKED_THROUGH).await?;
            front.entries = page
                .events
                .into_iter()
                .map(|entry| QueueEntry {
                    sequence: entry.sequence,
                    id: entry.task.id,
                    stored_at: entry.stored_at,
                })
                .collect();
            found = front.waiting(in_hand).map(|(_, entry)| entry.stored_at);
        }
        self.lock().insert(queue, front);
        Ok(found)
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, BTreeMap<(Model, Lane), Front>> {
        self.0.lock()
    }
}

impl Front {
    fn advance(&mut self, acked_to: u64) {
        // A consumer that was made anew begins at the beginning.
        if acked_to < self.acked_to {
            self.entries.clear();
        }
        self.acked_to = acked_to;
        self.entries.retain(|entry| entry.sequence > acked_to);
    }

    fn waiting(&self, in_hand: &BTreeSet<&str>) -> Option<(usize, &QueueEntry)> {
        let mut entries = self.entries.iter().enumerate();
        entries.find(|(_, entry)| !in_hand.contains(entry.id.as_str()))
    }

    /// The first that waits and is still there; what is gone is forgotten.
    async fn first(
        &mut self,
        log: &TaskLog,
        in_hand: &BTreeSet<&str>,
    ) -> Result<Option<Timestamp>, ReadError> {
        while let Some((at, entry)) = self.waiting(in_hand) {
            // With every subject in the filter the number alone decides.
            let there = log.page(">", entry.sequence, 1).await?;
            if there.read_to == Some(entry.sequence) {
                return Ok(Some(entry.stored_at));
            }
            self.entries.remove(at);
        }
        Ok(None)
    }
}
