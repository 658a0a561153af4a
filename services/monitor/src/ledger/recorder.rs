//! Stores each attempt in the stream LEDGER.

use std::sync::Arc;

use futures::future::try_join_all;
use spotreel_bus::Recorded;
use spotreel_bus::ledger::LedgerStream;
use spotreel_bus::names::CONSUMER_LEDGER;
use spotreel_domain::Event;
use spotreel_domain::allocation::{AttemptRecord, Knowledge};

use crate::consume::Handled;
use crate::error::HandleError;
use crate::metrics;

pub const CONSUMER: &str = CONSUMER_LEDGER;

pub struct Recorder {
    stream: LedgerStream,
}

impl Recorder {
    pub fn new(stream: LedgerStream) -> Self {
        Self { stream }
    }

    pub async fn handle(self: Arc<Self>, event: Recorded) -> Result<Handled, HandleError> {
        let records = news(&event);
        let stored = try_join_all(records.iter().map(|record| self.stream.record(record)));
        stored.await.map_err(|source| HandleError::Record {
            task: event.task.id.clone(),
            source,
        })?;
        if records
            .iter()
            .any(|record| record.knows() == Knowledge::Ended)
        {
            metrics::attempt_ended(&event.task);
        }
        Ok(Handled::Done)
    }
}

/// What the event tells of attempts that earlier events of the task did not. The last event of a task tells of all of them,
/// also those whose events were deleted before this version heard them.
fn news(event: &Recorded) -> Vec<AttemptRecord> {
    let mut records = AttemptRecord::all(&event.task);
    let newest = match event.event {
        Event::Queued => 0,
        // The one before it goes on here.
        Event::Started => 2,
        event if event.is_terminal() => records.len(),
        _ => 1,
    };
    records.split_off(records.len().saturating_sub(newest))
}

#[cfg(test)]
mod tests {
    use spotreel_domain::allocation::Knowledge::{Ended, Followed, Started};
    use spotreel_domain::task::{AttemptOutcome, Task};
    use spotreel_domain::{Model, TaskId};
    use spotreel_test_kit::tasks;

    use super::*;

    fn told(step: (Event, Task)) -> (Vec<(u32, Knowledge)>, Task) {
        let event = Recorded {
            sequence: 1,
            event: step.0,
            stored_at: step.1.at,
            headers: Default::default(),
            task: step.1,
        };
        let told = news(&event);
        let told = told.iter().map(|record| (record.number, record.knows()));
        (told.collect(), event.task)
    }

    #[test]
    fn each_event_tells_what_is_new_and_the_last_one_everything() {
        let step = tasks::queued("t", &tasks::request(Model::Ti2v5b), |_| {});
        let (first, task) = told(step);
        assert_eq!(first, []);
        let at = task.at;
        let (first, task) = told(task.started("w-1", "i-1", 0, at).unwrap());
        assert_eq!(first, [(1, Started)]);
        let (first, task) = told(task.interrupted(at).unwrap());
        assert_eq!(first, [(1, Ended)]);
        let (both, task) = told(task.started("w-2", "i-2", 7, at).unwrap());
        assert_eq!(both, [(1, Followed), (2, Started)]);
        // Its work item was lost: the next start tells how it ended.
        let (none, task) = told(task.restored(at).unwrap());
        assert_eq!(none, []);
        let (both, task) = told(task.started("w-3", "i-3", 9, at).unwrap());
        assert_eq!(both, [(2, Followed), (3, Started)]);
        assert_eq!(task.attempts[1].outcome, AttemptOutcome::Lost);
        let (all, _) = told(task.cancelled(at).unwrap());
        assert_eq!(all, [(1, Followed), (2, Followed), (3, Ended)]);
        assert_eq!(task.id, TaskId::parse("t").unwrap());
    }
}
