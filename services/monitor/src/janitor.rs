//! What a finished task leaves behind: early events, checkpoints, videos that no state names. Its last event stays,
//! until it is old or its room is needed ([`removal`](crate::removal)). Of a task that goes on, the events that nobody needs.
//!
//! Every step can be done twice, and the task's last event is read anew before anything is deleted: a person's retry
//! makes the task live again at any moment.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{CONSUMER_JANITOR, CONSUMER_LEDGER, CONSUMER_NOTIFIER, CONSUMER_SWEEPER};
use spotreel_bus::{Recorded, TaskLog};
use spotreel_domain::Task;
use spotreel_domain::task::State;
use spotreel_s3::Store;

use crate::config::JanitorConfig;
use crate::consume::Handled;
use crate::error::HandleError;
use crate::{metrics, pages, reconcile};

pub const CONSUMER: &str = CONSUMER_JANITOR;
/// Consumers that must have read a task's events before they are deleted. `deadlines` is not among them: it holds entries back until
/// their time comes, and asks the log then.
const READ_FIRST: [&str; 3] = [CONSUMER_NOTIFIER, CONSUMER_SWEEPER, CONSUMER_LEDGER];

pub struct Janitor {
    pub(crate) log: TaskLog,
    store: Store,
    pub(crate) config: JanitorConfig,
    retry_after: Duration,
    /// Where the next look for room begins.
    pub(crate) room_from: Mutex<u64>,
}

impl Janitor {
    pub fn new(log: TaskLog, store: Store, config: JanitorConfig, retry_after: Duration) -> Self {
        Self {
            log,
            store,
            config,
            retry_after,
            room_from: Mutex::new(1),
        }
    }

    pub async fn handle(self: Arc<Self>, end: Recorded) -> Result<Handled, HandleError> {
        let age = age(&end, ambient::now());
        if age < self.config.grace {
            return Ok(Handled::Later(self.config.grace - age));
        }
        let Some(last) = pages::last(&self.log, &end.task.id).await? else {
            return Ok(Handled::Done);
        };
        if last.sequence != end.sequence {
            self.trim(&last).await?;
            return Ok(Handled::Done);
        }
        if !self.everyone_is_past(&READ_FIRST, end.sequence).await? {
            return Ok(Handled::Later(self.retry_after));
        }
        match self.drop_history(&end).await {
            Err(HandleError::Read(error @ ReadError::Decode { .. }))
                if !error.is_newer_version() =>
            {
                let error = spotreel_domain::chain(&error);
                tracing::error!(error, task = %end.task.id, "history of a task cannot be read; it stays in the log");
                metrics::unreadable(CONSUMER);
            }
            other => other?,
        }
        let id = &end.task.id;
        let named: Vec<_> = match &end.task.state {
            State::Succeeded { artifact } => {
                let poster = artifact.poster.as_ref();
                [Some(&artifact.key), poster]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            _ => Vec::new(),
        };
        self.drop_objects(&end, &Task::renders(id), &named).await?;
        self.drop_objects(&end, &Task::checkpoints(id), &[]).await?;
        Ok(Handled::Done)
    }

    /// Drops what a task that goes on needs no more: all but its work item, its newest start and its last event. Events that
    /// somebody has still to hear stay, and so do those of the last minutes, for people who look into the log.
    pub(crate) async fn trim(&self, last: &Recorded) -> Result<(), HandleError> {
        let task = &last.task;
        if task.is_terminal() {
            return Ok(());
        }
        let now = ambient::now();
        let history = match self.log.history(&task.id).await {
            Err(ReadError::Decode { .. } | ReadError::Subject { .. }) => return Ok(()),
            history => history?,
        };
        let kept = [task.entry, task.start];
        let mut early = history;
        early.retain(|event| {
            event.sequence < last.sequence
                && !kept.contains(&event.sequence)
                && age(event, now) >= self.config.grace
        });
        let Some(newest) = early.last().map(|event| event.sequence) else {
            return Ok(());
        };
        if self.everyone_is_past(&READ_FIRST, newest).await? {
            for event in early {
                self.delete(event.sequence).await?;
            }
        }
        Ok(())
    }

    /// False once a new round has begun, or the task is gone.
    pub(crate) async fn is_last(&self, end: &Recorded) -> Result<bool, HandleError> {
        let last = pages::last(&self.log, &end.task.id).await?;
        Ok(last.is_some_and(|last| last.sequence == end.sequence))
    }

    async fn everyone_is_past(
        &self,
        consumers: &[&str],
        sequence: u64,
    ) -> Result<bool, HandleError> {
        Ok(self.read_up_to(consumers).await? >= sequence)
    }

    /// All of the consumers are past every event, up to this one, that was in the log before the question.
    pub(crate) async fn read_up_to(&self, consumers: &[&str]) -> Result<u64, HandleError> {
        let mut read = u64::MAX;
        for consumer in consumers {
            let info = reconcile::consumer(self.log.client(), consumer).await;
            let info = info.map_err(|source| HandleError::Look {
                consumer: (*consumer).to_owned(),
                source,
            })?;
            let idle = info.num_pending == 0 && info.num_ack_pending == 0;
            if !idle {
                read = read.min(info.ack_floor.stream_sequence);
            }
        }
        Ok(read)
    }

    /// Message by message: a purge would leave counts behind.
    async fn drop_history(&self, end: &Recorded) -> Result<(), HandleError> {
        loop {
            let history = self.log.history(&end.task.id).await?;
            let early: Vec<u64> = history
                .iter()
                .map(|event| event.sequence)
                .filter(|at| *at < end.sequence)
                .collect();
            if early.is_empty() {
                return Ok(());
            }
            for sequence in early {
                self.delete(sequence).await?;
            }
        }
    }

    /// Deletes what lies under `prefix`, but `named` and what belongs to another life of the id. Whatever was listed while the end was still the task's last event
    /// belongs to rounds that are over.
    async fn drop_objects(
        &self,
        end: &Recorded,
        prefix: &str,
        named: &[&String],
    ) -> Result<(), HandleError> {
        for object in self.store.list(prefix).await? {
            if named.contains(&&object.key) || !end.task.owns_object(&object.key) {
                continue;
            }
            if !self.is_last(end).await? {
                return Ok(());
            }
            self.store.delete(&object.key).await?;
            metrics::object_removed();
        }
        Ok(())
    }

    pub(crate) async fn delete(&self, sequence: u64) -> Result<(), HandleError> {
        let gone = self.log.delete(sequence).await;
        gone.map_err(|source| HandleError::Delete { sequence, source })?;
        metrics::removed();
        Ok(())
    }
}

/// By the server's clock at its birth and ours now; one from the future has no age.
pub(crate) fn age(event: &Recorded, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(event.stored_at)).unwrap_or_default()
}
