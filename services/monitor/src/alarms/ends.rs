//! The ends of tasks of one kind, as the log gets them: read once, and kept for as long as they count.

use std::collections::VecDeque;

use async_nats::Client;
use jiff::Timestamp;
use serde::Deserialize;
use spotreel_bus::Recorded;
use spotreel_bus::jetstream::{self, JetStreamError, Start, Stored};
use spotreel_bus::names::TASKS;
use spotreel_domain::task::State;

const PAGE: usize = 200;
/// Pages that one look reads; the next look goes on behind them.
const PAGES_A_LOOK: usize = 50;

pub(super) struct Ends {
    client: Client,
    filter: &'static str,
    /// Where the next page begins; none: by the time.
    next: Option<u64>,
    /// The end of the log one look ago.
    end: u64,
    kept: VecDeque<TaskEnd>,
}

#[derive(Clone, Debug)]
pub(super) struct TaskEnd {
    pub at: Timestamp,
    pub task: String,
    /// The instance of the last attempt; empty: there was none.
    pub instance: String,
    pub error: String,
}

impl Ends {
    pub fn of(client: &Client, filter: &'static str) -> Self {
        Self {
            client: client.clone(),
            filter,
            next: None,
            end: 0,
            kept: VecDeque::new(),
        }
    }

    /// Those since then, in the order of the log. None: there is more to read than one look reads.
    pub async fn since(
        &mut self,
        since: Timestamp,
    ) -> Result<Option<Vec<TaskEnd>>, JetStreamError> {
        let end = self.end_of_log().await?;
        if end < self.end {
            // The log was made anew.
            (self.next, self.end) = (None, 0);
            self.kept.clear();
        }
        let mut is_whole = false;
        for _ in 0..PAGES_A_LOOK {
            let start = self.next.map_or(Start::Time(since), Start::Sequence);
            let page = jetstream::page(&self.client, TASKS, self.filter, start, PAGE).await?;
            let count = page.len();
            if let Some(last) = page.last() {
                self.next = Some(last.sequence + 1);
            }
            self.kept.extend(page.into_iter().map(TaskEnd::of));
            if count < PAGE {
                is_whole = true;
                break;
            }
        }
        if is_whole {
            // Behind what was the end one look ago: a replica may not have had the newest yet. Without this, a page would
            // search all of the log that came since the last such end.
            if self.end > 0 {
                self.next = self.next.max(Some(self.end + 1));
            }
            self.end = end;
        }
        while self.kept.front().is_some_and(|first| first.at < since) {
            self.kept.pop_front();
        }
        Ok(is_whole.then(|| self.kept.iter().cloned().collect()))
    }

    async fn end_of_log(&self) -> Result<u64, JetStreamError> {
        #[derive(Deserialize)]
        struct Info {
            state: LogEnd,
        }
        #[derive(Deserialize)]
        struct LogEnd {
            last_seq: u64,
        }
        let info: Info = jetstream::stream_info(&self.client, TASKS).await?;
        Ok(info.state.last_seq)
    }
}

impl TaskEnd {
    /// Of an event that a newer version wrote, only the time is known.
    fn of(stored: Stored) -> Self {
        let (at, subject) = (stored.stored_at, stored.subject.clone());
        let read = Recorded::from_parts(
            &stored.subject,
            stored.sequence,
            &stored.payload,
            stored.headers,
            at.as_nanosecond(),
        );
        let Ok(Recorded { task, .. }) = read else {
            return Self {
                at,
                task: subject,
                instance: String::new(),
                error: String::new(),
            };
        };
        let instance = task.attempts.last().map(|last| last.instance.clone());
        Self {
            at,
            instance: instance.unwrap_or_default(),
            error: match task.state {
                State::Failed { error } => error.message,
                _ => String::new(),
            },
            task: task.id.to_string(),
        }
    }
}
