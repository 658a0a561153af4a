//! What a finished task leaves behind: early events, checkpoints, videos that no state names. Its last event stays,
//! until it is old.
//!
//! Every step can be done twice, and the task's last event is read anew before anything is deleted: a person's retry
//! makes the task live again at any moment.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{CONSUMER_JANITOR, CONSUMER_NOTIFIER, CONSUMER_SWEEPER, EVERY_SUBJECT};
use spotreel_bus::{Recorded, TaskLog};
use spotreel_domain::task::State;
use spotreel_domain::{Task, TaskId};
use spotreel_s3::Store;
use tokio_util::sync::CancellationToken;

use crate::config::JanitorConfig;
use crate::error::ActError;
use crate::inbox::Verdict;
use crate::{metrics, reconcile};

pub const CONSUMER: &str = CONSUMER_JANITOR;
/// Who must have heard a task's events before they go. `deadlines` is not among them: it holds entries back until
/// their time comes, and asks the log then.
const HEARERS: [&str; 2] = [CONSUMER_NOTIFIER, CONSUMER_SWEEPER];
/// Events read at a time; one answer of the server.
const PAGE: usize = 500;

pub struct Janitor {
    log: TaskLog,
    store: Store,
    config: JanitorConfig,
    retry_after: Duration,
}

impl Janitor {
    pub fn new(log: TaskLog, store: Store, config: JanitorConfig, retry_after: Duration) -> Self {
        Self {
            log,
            store,
            config,
            retry_after,
        }
    }

    pub async fn hear(self: Arc<Self>, end: Recorded) -> Result<Verdict, ActError> {
        let age = age(&end, ambient::now());
        if age < self.config.grace {
            return Ok(Verdict::Later(self.config.grace - age));
        }
        if !self.is_last(&end).await? {
            return Ok(Verdict::Done);
        }
        if !self.everyone_is_past(&HEARERS, end.sequence).await? {
            return Ok(Verdict::Later(self.retry_after));
        }
        match self.drop_history(&end).await {
            Err(ActError::Read(error @ ReadError::Decode { .. })) if !error.is_newer_version() => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::error!(error, task = %end.task.id, "a task's history cannot be read; it stays in the log");
                metrics::unreadable(CONSUMER);
            }
            other => other?,
        }
        let id = &end.task.id;
        let named = match &end.task.state {
            State::Succeeded { artifact } => Some(artifact.key.as_str()),
            _ => None,
        };
        self.drop_objects(&end, &Task::renders(id), named).await?;
        self.drop_objects(&end, &Task::checkpoints(id), None)
            .await?;
        Ok(Verdict::Done)
    }

    /// False once a new round has begun, or the task is gone.
    async fn is_last(&self, end: &Recorded) -> Result<bool, ActError> {
        let last = self.log.last(&end.task.id).await?;
        Ok(last.is_some_and(|last| last.sequence == end.sequence))
    }

    async fn everyone_is_past(&self, consumers: &[&str], sequence: u64) -> Result<bool, ActError> {
        for consumer in consumers {
            let info = reconcile::consumer(self.log.client(), consumer).await;
            let info = info.map_err(|source| ActError::Look {
                consumer: (*consumer).to_owned(),
                source,
            })?;
            let idle = info.num_pending == 0 && info.num_ack_pending == 0;
            if !idle && info.ack_floor.stream_sequence < sequence {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Message by message: a purge would leave counts behind.
    async fn drop_history(&self, end: &Recorded) -> Result<(), ActError> {
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
        named: Option<&str>,
    ) -> Result<(), ActError> {
        for object in self.store.list(prefix).await? {
            if Some(object.key.as_str()) == named || !end.task.owns_object(&object.key) {
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

    async fn delete(&self, sequence: u64) -> Result<(), ActError> {
        let gone = self.log.delete(sequence).await;
        gone.map_err(|source| ActError::Delete { sequence, source })?;
        metrics::removed();
        Ok(())
    }

    /// The slow pass, until told to stop.
    pub(crate) async fn remove_old(self: Arc<Self>, stopping: CancellationToken) {
        let mut tick = tokio::time::interval(self.config.remove_every);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopping.cancelled() => return,
            }
            let pass = stopping
                .run_until_cancelled(self.remove_old_once(ambient::now()))
                .await;
            if let Some(Err(error)) = pass {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(error, "old tasks were not all removed, trying again later");
            }
        }
    }

    /// Removes finished tasks from the head of the log, up to the first event that is younger than they are kept.
    pub async fn remove_old_once(&self, now: Timestamp) -> Result<usize, ActError> {
        let (mut from, mut page, mut removed) = (1, PAGE, 0);
        loop {
            let events = match self.log.scan(EVERY_SUBJECT, from, page).await {
                Ok(events) => events,
                // One that cannot be read spoils its page: smaller pages find it, then it is passed over.
                Err(ReadError::Decode { sequence, .. } | ReadError::Subject { sequence, .. }) => {
                    if page == 1 {
                        tracing::error!(sequence, "an event of the log cannot be read; it stays");
                        metrics::unreadable(CONSUMER);
                        (from, page) = (sequence + 1, PAGE);
                    } else {
                        page /= 2;
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(newest) = events.last() else {
                return Ok(removed);
            };
            from = newest.sequence + 1;
            for event in &events {
                if age(event, now) < self.config.keep_finished {
                    return Ok(removed);
                }
                if event.event.is_terminal() && self.may_go(event).await? {
                    self.delete(event.sequence).await?;
                    tracing::info!(task = %event.task.id, "removed; its id is free again");
                    removed += 1;
                }
            }
        }
    }

    /// The last and only event of its task, heard by all, its objects seen to.
    async fn may_go(&self, end: &Recorded) -> Result<bool, ActError> {
        let heard_by = [CONSUMER_NOTIFIER, CONSUMER_SWEEPER, CONSUMER_JANITOR];
        Ok(self.is_last(end).await?
            && self.is_alone(&end.task.id).await?
            && self.everyone_is_past(&heard_by, end.sequence).await?)
    }

    async fn is_alone(&self, id: &TaskId) -> Result<bool, ActError> {
        Ok(self.log.history(id).await?.len() == 1)
    }
}

/// By the server's clock at its birth and ours now; one from the future has no age.
fn age(event: &Recorded, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(event.stored_at)).unwrap_or_default()
}
