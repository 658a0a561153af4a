//! Room in the task log. Once it is nearly full no task is started here, so that what is left is for the ends of those that
//! are: a log that takes nothing more could not even be told that a task has failed.

use std::time::Duration;

use spotreel_bus::LogRoom;
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_domain::chain;
use tokio_util::sync::CancellationToken;

use crate::Worker;

/// How often the log is looked at. Between two looks a worker can start a task or two.
const LOOK: Duration = Duration::from_secs(5);

impl Worker {
    /// Looks again and again, until told to stop.
    pub(crate) async fn watch_room(&self, stopping: &CancellationToken) {
        loop {
            self.look_for_room().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Asks the server how full the log is. Where it does not say so, what was known before stands.
    pub(crate) async fn look_for_room(&self) {
        match LogRoom::of_log(self.log.client()).await {
            Ok(room) => {
                let is_full = room.is_used_to(ENDS_ONLY_PERCENT);
                self.wellness.log_is_full(is_full, room.used_percent());
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "size of the task log is unknown");
            }
        }
    }
}
