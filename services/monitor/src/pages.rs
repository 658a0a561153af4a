//! Reads the log. A message that cannot be decoded is logged and skipped.

use spotreel_bus::log::ReadError;
use spotreel_bus::names::TASKS;
use spotreel_bus::unreadable::or_pass_over;
use spotreel_bus::{Recorded, TaskLog};
use spotreel_domain::TaskId;

use crate::metrics;

/// Events read at a time; one answer of the server.
pub(crate) const PAGE: usize = 500;

/// The task's newest event. None: the task is gone, or no version can decode its state, and nobody can go on with it.
pub(crate) async fn last(log: &TaskLog, id: &TaskId) -> Result<Option<Recorded>, ReadError> {
    Ok(or_pass_over(TASKS, log.last(id).await)?.flatten())
}

/// Reads what matches a filter, from a sequence on.
pub(crate) struct LogPages<'a> {
    log: &'a TaskLog,
    filter: &'a str,
    reader: &'static str,
    /// Where the next page begins.
    pub from: u64,
    page: usize,
}

impl<'a> LogPages<'a> {
    /// `reader` stands in the metric of what cannot be read.
    pub fn new(log: &'a TaskLog, filter: &'a str, from: u64, reader: &'static str) -> Self {
        Self {
            log,
            filter,
            reader,
            from,
            page: PAGE,
        }
    }

    /// The next events in order of the log; none at its end.
    pub async fn next(&mut self) -> Result<Vec<Recorded>, ReadError> {
        loop {
            match self.log.scan(self.filter, self.from, self.page).await {
                Ok(events) => {
                    if let Some(newest) = events.last() {
                        self.from = newest.sequence + 1;
                    }
                    return Ok(events);
                }
                // It spoils its page: smaller pages find it, then it is passed over.
                Err(ReadError::Decode { sequence, .. } | ReadError::Subject { sequence, .. }) => {
                    if self.page > 1 {
                        self.page /= 2;
                        continue;
                    }
                    tracing::error!(sequence, "event cannot be decoded; it stays in the log");
                    metrics::unreadable(self.reader);
                    (self.from, self.page) = (sequence + 1, PAGE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
