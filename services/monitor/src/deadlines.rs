//! Expires tasks that have not succeeded by their deadline, queued or started.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::names::{self, CONSUMER_DEADLINES};
use spotreel_bus::{AppendError, Recorded, TaskLog};
use spotreel_domain::Task;

use crate::config::DeadlinesConfig;
use crate::consume::Handled;
use crate::error::HandleError;
use crate::{metrics, pages};

pub const CONSUMER: &str = CONSUMER_DEADLINES;

pub struct Deadlines {
    log: TaskLog,
    config: DeadlinesConfig,
}

impl Deadlines {
    pub fn new(log: TaskLog, config: DeadlinesConfig) -> Self {
        Self { log, config }
    }

    pub async fn handle(self: Arc<Self>, queued: Recorded) -> Result<Handled, HandleError> {
        match remaining(&queued.task, ambient::now()) {
            None => Ok(Handled::Done),
            Some(Duration::ZERO) => self.end(&queued).await,
            Some(rest) => Ok(Handled::Later(rest.min(self.config.longest_wait))),
        }
    }

    /// Ends the round that this entry began, if it still goes on.
    async fn end(&self, queued: &Recorded) -> Result<Handled, HandleError> {
        let (id, entry) = (&queued.task.id, queued.sequence);
        loop {
            let Some(last) = pages::last(&self.log, id).await? else {
                return Ok(Handled::Done);
            };
            if last.task.entry != entry {
                return Ok(Handled::Done);
            }
            // Refused: it has ended already.
            let Ok(step) = last.task.expired(ambient::now()) else {
                return Ok(Handled::Done);
            };
            let append = Append::new(step, last.sequence, ambient::uuid_v4());
            match self.log.append(&append).await {
                Ok(_) => break,
                Err(AppendError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        metrics::expired();
        tracing::info!(task = %id, "expired");
        // A crash from here on is mended by the sweeper, and by the worker's next renewal.
        let gone = self.log.delete(entry).await;
        gone.map_err(|source| HandleError::Delete {
            sequence: entry,
            source,
        })?;
        let _ = self
            .log
            .client()
            .publish(names::hint(id), Bytes::new())
            .await;
        Ok(Handled::Done)
    }
}

/// How long the task still has: nothing when it is due, none when it has no deadline.
fn remaining(task: &Task, now: Timestamp) -> Option<Duration> {
    let deadline = task.spec.expires_at?;
    // Negative, which no Duration is: due.
    Some(Duration::try_from(deadline.duration_since(now)).unwrap_or_default())
}
