//! Deletes finished tasks from the log: when they are old, or earlier, oldest first, when room is needed.
//!
//! Intake takes no new tasks above its bound, so that the rest of the log is there for the ends of those that it has taken.
//! Without this, a log that is full of finished tasks would refuse everybody for a month.

use std::sync::Arc;

use futures::future::try_join_all;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{
    CONSUMER_JANITOR, CONSUMER_LEDGER, CONSUMER_NOTIFIER, CONSUMER_SWEEPER, EVERY_SUBJECT,
};
use spotreel_bus::{LogRoom, Recorded};
use tokio_util::sync::CancellationToken;

use crate::error::HandleError;
use crate::janitor::{CONSUMER, Janitor, age};
use crate::pages::LogPages;

/// Consumers that must have read a task's end before it is deleted. The janitor is one: by then it has deleted the objects.
const READ_FIRST: [&str; 4] = [
    CONSUMER_NOTIFIER,
    CONSUMER_SWEEPER,
    CONSUMER_LEDGER,
    CONSUMER_JANITOR,
];
/// Additional room that a pass frees, in percent of the log, so that not every new task causes a pass.
const SPARE_PERCENT: u64 = 2;
/// Pages that a look for room reads; the next look goes on behind them.
const PAGES_A_LOOK: usize = 40;
/// Tasks removed at the same time; then the log's room is looked at again.
const CONCURRENT: usize = 16;

impl Janitor {
    /// Both passes, until told to stop.
    pub(crate) async fn remove(self: Arc<Self>, stopping: CancellationToken) {
        let mut old = tokio::time::interval(self.config.remove_every);
        let mut room = tokio::time::interval(self.config.room_every);
        loop {
            let is_old = tokio::select! {
                _ = old.tick() => true,
                _ = room.tick() => false,
                () = stopping.cancelled() => return,
            };
            let now = ambient::now();
            let pass = async {
                match is_old {
                    true => self.remove_old_once(now).await,
                    false => self.make_room_once(now).await,
                }
            };
            if let Some(Err(error)) = stopping.run_until_cancelled(pass).await {
                let error = spotreel_domain::chain(&error);
                tracing::warn!(error, "deleting finished tasks failed; retrying later");
            }
        }
    }

    /// Removes finished tasks from the head of the log, up to the first event that is younger than they are kept.
    pub async fn remove_old_once(&self, now: Timestamp) -> Result<usize, HandleError> {
        let mut pages = LogPages::new(&self.log, EVERY_SUBJECT, 1, CONSUMER);
        let mut removed = 0;
        loop {
            let events = pages.next().await?;
            let is_old = |event: &&Recorded| age(event, now) >= self.config.keep_finished;
            let old = events.iter().take_while(is_old).count();
            removed += self.remove_ended(&events[..old]).await?;
            if events.is_empty() || old < events.len() {
                return Ok(removed);
            }
        }
    }

    /// Removes finished tasks, oldest first, while the log is fuller than it should be. Only the grace is left to them.
    pub async fn make_room_once(&self, now: Timestamp) -> Result<usize, HandleError> {
        if !self.is_fuller_than(self.config.room_percent).await? {
            self.look_from(1);
            return Ok(0);
        }
        let aim = self.config.room_percent.saturating_sub(SPARE_PERCENT);
        let from = *self.room_from.lock();
        let mut pages = LogPages::new(&self.log, EVERY_SUBJECT, from, CONSUMER);
        let mut removed = 0;
        'look: for _ in 0..PAGES_A_LOOK {
            let events = pages.next().await?;
            let read = events.len();
            let past_grace = |event: &Recorded| age(event, now) >= self.config.grace;
            let old: Vec<_> = events.into_iter().take_while(past_grace).collect();
            let is_end = read == 0 || old.len() < read;
            for some in old.chunks(CONCURRENT) {
                removed += self.remove_ended(some).await?;
                if !self.is_fuller_than(aim).await? {
                    pages.from = 1;
                    break 'look;
                }
            }
            if is_end {
                pages.from = 1;
                break;
            }
        }
        self.look_from(pages.from);
        if removed > 0 {
            tracing::warn!(
                removed,
                "task log is filling up: oldest finished tasks deleted early"
            );
        }
        Ok(removed)
    }

    fn look_from(&self, sequence: u64) {
        *self.room_from.lock() = sequence;
    }

    async fn is_fuller_than(&self, percent: u64) -> Result<bool, HandleError> {
        let room = LogRoom::of_log(self.log.client()).await;
        Ok(room.map_err(HandleError::Room)?.is_used_to(percent))
    }

    async fn remove_ended(&self, events: &[Recorded]) -> Result<usize, HandleError> {
        if !events.iter().any(|event| event.event.is_terminal()) {
            return Ok(0);
        }
        let read = self.read_up_to(&READ_FIRST).await?;
        let ends: Vec<&Recorded> = events
            .iter()
            .filter(|event| event.event.is_terminal() && event.sequence <= read)
            .collect();
        let mut removed = 0;
        for some in ends.chunks(CONCURRENT) {
            let went = try_join_all(some.iter().map(|end| self.remove_end(end))).await?;
            removed += went.into_iter().filter(|went| *went).count();
        }
        Ok(removed)
    }

    /// Removes the end of a task, if it is the last event of the task and the only one. The janitor has told of a history that
    /// cannot be read; it stays.
    async fn remove_end(&self, end: &Recorded) -> Result<bool, HandleError> {
        let history = match self.log.history(&end.task.id).await {
            Err(ReadError::Decode { .. } | ReadError::Subject { .. }) => return Ok(false),
            history => history?,
        };
        let goes = history.len() == 1 && self.is_last(end).await?;
        if goes {
            self.delete(end.sequence).await?;
            tracing::info!(task = %end.task.id, "task deleted; its id is free again");
        }
        Ok(goes)
    }
}
