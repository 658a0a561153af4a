//! Reads the log page by page. A message that cannot be decoded is logged and skipped.

use spotreel_bus::log::ReadError;
use spotreel_bus::{Recorded, TaskLog};

use crate::metrics;

/// Events read at a time; one answer of the server.
pub(crate) const PAGE: usize = 500;

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
