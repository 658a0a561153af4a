//! The task log: the one function that writes it, and the ways to read it.

use std::borrow::Borrow;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap};
use jiff::Timestamp;
use spotreel_domain::{Event, Task, TaskId};
use uuid::Uuid;

pub use crate::append::ReadError;
use crate::append::{self, LogEntry, TRY_TIMEOUT, Write, last_message};
pub use crate::atomic::MAX_BATCH;
use crate::atomic::{self, Message};
use crate::codec;
use crate::jetstream::{self, JetStreamError, Start, Stored};
use crate::names::{self, HEADER_EXPECTED, TASKS};
use crate::trace;
use crate::unreadable::or_pass_over;

#[derive(Clone)]
pub struct TaskLog {
    client: Client,
    stream: Stream<()>,
}

/// An event as it stands in the log.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub sequence: u64,
    pub event: Event,
    /// The state after it, with `entry` and `start` filled in.
    pub task: Task,
    pub headers: HeaderMap,
    pub stored_at: Timestamp,
}

/// Some events of the log, in its order.
#[derive(Clone, Debug)]
pub struct LogPage {
    pub events: Vec<Recorded>,
    /// The sequence of the last message that was read; none: there was none.
    pub read_to: Option<u64>,
    /// Nothing came behind it.
    pub is_last: bool,
}

/// Why an event was not written; of the task log, unless `R` names another log's event.
pub type AppendError<R = Recorded> = append::AppendError<R>;

/// One event that is to be written after the one with the sequence `expected` (0: the task's first).
#[derive(Clone, Debug)]
pub struct Append {
    pub event: Event,
    pub task: Task,
    pub expected: u64,
    /// Unique per intention; the same in every try of it.
    pub op: Uuid,
    pub headers: HeaderMap,
}

impl Append {
    pub fn new((event, task): (Event, Task), expected: u64, op: Uuid) -> Self {
        let mut headers = HeaderMap::new();
        trace::inject(&mut headers);
        Self {
            event,
            task,
            expected,
            op,
            headers,
        }
    }

    fn write(&self) -> Write {
        let (id, model) = (&self.task.id, self.task.spec.model);
        Write {
            subject: names::log_event(id, self.event, model, self.task.lane()),
            filter: names::log_of(id),
            expected: self.expected,
            op: self.op.to_string(),
            headers: self.headers.clone(),
            payload: codec::task::encode(&self.task).into(),
        }
    }
}

impl Recorded {
    fn from_message(message: StreamMessage) -> Result<Self, ReadError> {
        let sequence = message.sequence;
        Self::from_parts(
            &message.subject,
            sequence,
            &message.payload,
            message.headers,
            message.time.unix_timestamp_nanos(),
        )
    }

    /// Reads an event from what a consumer or a direct get delivered.
    pub fn from_parts(
        subject: &str,
        sequence: u64,
        payload: &[u8],
        headers: HeaderMap,
        stored_nanos: i128,
    ) -> Result<Self, ReadError> {
        let Some((_, event)) = names::parse_log_subject(subject) else {
            return Err(ReadError::Subject {
                sequence,
                subject: subject.to_owned(),
            });
        };
        let task = codec::task::decode(payload)
            .map_err(|source| ReadError::Decode { sequence, source })?;
        let stored_at = Timestamp::from_nanosecond(stored_nanos).unwrap_or(task.at);
        Ok(Self {
            sequence,
            event,
            task: task.placed_at(sequence, event),
            headers,
            stored_at,
        })
    }

    /// None: no version can decode it.
    pub fn from_stored(stored: Stored) -> Result<Option<Self>, ReadError> {
        or_pass_over(TASKS, Self::of_stored(stored))
    }

    fn of_stored(stored: Stored) -> Result<Self, ReadError> {
        Self::from_parts(
            &stored.subject,
            stored.sequence,
            &stored.payload,
            stored.headers,
            stored.stored_at.as_nanosecond(),
        )
    }

    /// The sequence of the task's event before this one, 0 if this is its first: what the write expected. None: the
    /// headers do not say.
    pub fn before(&self) -> Option<u64> {
        self.headers.get(HEADER_EXPECTED)?.as_str().parse().ok()
    }
}

impl LogEntry for Recorded {
    fn sequence(&self) -> u64 {
        self.sequence
    }
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl TaskLog {
    pub async fn open(client: &Client) -> Self {
        let context = async_nats::jetstream::new(client.clone());
        let stream = context
            .get_stream_no_info(TASKS)
            .await
            .expect("TASKS is a valid stream name");
        Self {
            client: client.clone(),
            stream,
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Writes one event, if the task's newest event is still the expected one. Every write to the log goes through
    /// here or through [`Self::append_batch`].
    pub async fn append(&self, append: &Append) -> Result<u64, AppendError> {
        let last = || self.last(&append.task.id);
        append.write().send(&self.client, last).await
    }

    /// Writes up to [`MAX_BATCH`] events of *different* tasks, all or none, with one fsync. The server does not
    /// compare the messages of a batch with each other: two events of one task would both be stored.
    ///
    /// Any error leaves open what happened; [`Self::append`] of each event settles it.
    pub async fn append_batch<A: Borrow<Append> + Sync>(
        &self,
        appends: &[A],
        batch: Uuid,
    ) -> Result<Vec<u64>, JetStreamError> {
        let messages = appends.iter().map(|append| {
            let write = append.borrow().write();
            Message {
                headers: write.guarded_headers(),
                subject: write.subject,
                payload: write.payload,
            }
        });
        atomic::publish(
            &self.client,
            messages.collect(),
            &batch.simple().to_string(),
        )
        .await
    }

    /// The task's newest event, read at the leader: what decisions are made on.
    pub async fn last(&self, id: &TaskId) -> Result<Option<Recorded>, ReadError> {
        last_message(&self.stream, &names::log_of(id))
            .await?
            .map(Recorded::from_message)
            .transpose()
    }

    /// Messages of the stream from sequence `from` on that match `filter`, at most `limit`, in order of the log.
    /// Answered by any replica: good enough for readers, not for deciding.
    pub async fn scan(
        &self,
        filter: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let page = self.stored(filter, from, limit).await?;
        page.into_iter().map(Recorded::of_stored).collect()
    }

    /// As [`Self::scan`], without those that no version can decode.
    pub async fn page(&self, filter: &str, from: u64, limit: usize) -> Result<LogPage, ReadError> {
        let page = self.stored(filter, from, limit).await?;
        Ok(LogPage {
            is_last: page.len() < limit,
            read_to: page.last().map(|newest| newest.sequence),
            events: page
                .into_iter()
                .filter_map(|stored| Recorded::from_stored(stored).transpose())
                .collect::<Result<_, _>>()?,
        })
    }

    async fn stored(
        &self,
        filter: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, ReadError> {
        let start = Start::Sequence(from);
        Ok(jetstream::page(&self.client, TASKS, filter, start, limit).await?)
    }

    /// All that the log still holds of a task.
    pub async fn history(&self, id: &TaskId) -> Result<Vec<Recorded>, ReadError> {
        // Far more events than a task can have in its rounds before the janitor has seen it.
        self.scan(&names::log_of(id), 1, MAX_BATCH).await
    }

    /// The sequence of the task's first event behind `sequence` that the log still holds, asked of the leader.
    pub async fn next(&self, id: &TaskId, sequence: u64) -> Result<Option<u64>, ReadError> {
        let filter = names::log_of(id);
        let next = jetstream::next_message(&self.client, TASKS, &filter, sequence + 1);
        Ok(next.await?)
    }

    /// Whether a message is still in the log, asked of the leader.
    pub async fn holds(&self, sequence: u64) -> Result<bool, ReadError> {
        let api = format!("$JS.API.STREAM.MSG.GET.{TASKS}");
        let body = serde_json::json!({ "seq": sequence }).to_string().into();
        let (headers, timeout) = (HeaderMap::new(), TRY_TIMEOUT);
        match jetstream::request::<serde_json::Value>(&self.client, &api, headers, body, timeout)
            .await
        {
            Ok(_) => Ok(true),
            Err(JetStreamError::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a work item, or an event that no one needs any more, out of the log.
    pub async fn delete(&self, sequence: u64) -> Result<(), JetStreamError> {
        jetstream::delete_message(&self.client, TASKS, sequence).await
    }
}
