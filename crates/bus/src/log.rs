//! The task log: the one function that writes it, and the ways to read it.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use jiff::Timestamp;
use spotreel_domain::{Event, Task, TaskId};
use uuid::Uuid;

use crate::codec;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{self, HEADER_EXPECTED, HEADER_EXPECTED_FILTER, HEADER_OP, TASKS};
use crate::trace;

/// How long one try to append waits for its answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an append is tried again before its caller hears that the log cannot be reached: longer than a restart
/// of the server with a million tasks (2.3 s measured), shorter than a lease.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// The server's limit for one atomic batch.
pub const MAX_BATCH: usize = 1_000;

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

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else wrote first; the newest event tells what to do now.
    #[error("another event came first")]
    Conflict(Option<Box<Recorded>>),
    #[error("the task log is full")]
    Full,
    #[error("the event is too large for the log")]
    TooLarge,
    #[error("the task log cannot be reached")]
    Unavailable(#[source] ReadError),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the log's message {sequence} cannot be read")]
    Decode {
        sequence: u64,
        source: codec::DecodeError,
    },
    #[error("the log holds {subject:?} at {sequence}, which is no event of a task")]
    Subject { sequence: u64, subject: String },
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the log does not answer: {0}")]
    Server(String),
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

    fn subject(&self) -> String {
        names::log_event(
            &self.task.id,
            self.event,
            self.task.spec.model,
            self.task.spec.priority,
        )
    }

    fn guarded_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(HEADER_EXPECTED, self.expected.to_string().as_str());
        headers.insert(
            HEADER_EXPECTED_FILTER,
            names::log_of(&self.task.id).as_str(),
        );
        headers.insert(HEADER_OP, self.op.to_string().as_str());
        headers
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
        let task =
            codec::decode(payload).map_err(|source| ReadError::Decode { sequence, source })?;
        let stored_at = Timestamp::from_nanosecond(stored_nanos).unwrap_or(task.at);
        Ok(Self {
            sequence,
            event,
            task: task.placed_at(sequence, event),
            headers,
            stored_at,
        })
    }

    fn op(&self) -> Option<&str> {
        self.headers
            .get(HEADER_OP)
            .map(async_nats::HeaderValue::as_str)
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
    ///
    /// A try without an answer may have been stored: the newest event tells, by its operation id.
    pub async fn append(&self, append: &Append) -> Result<u64, AppendError> {
        let policy = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(20))
            .with_max_interval(Duration::from_secs(2))
            .with_max_elapsed_time(Some(GIVE_UP_AFTER))
            .build();
        crate::queue::retry(policy, || self.try_append(append)).await
    }

    async fn try_append(&self, append: &Append) -> Result<u64, backoff::Error<AppendError>> {
        use backoff::Error::{Permanent, Transient};
        let subject = append.subject();
        let sent = jetstream::request::<PubAck>(
            &self.client,
            &subject,
            append.guarded_headers(),
            codec::encode(&append.task).into(),
            TRY_TIMEOUT,
        );
        match sent.await {
            Ok(ack) => Ok(ack.seq),
            Err(ApiError::Full) => Err(Permanent(AppendError::Full)),
            Err(ApiError::TooLarge) => Err(Permanent(AppendError::TooLarge)),
            Err(ApiError::Conflict | ApiError::Unknown(_)) => {
                match self.last(&append.task.id).await {
                    Ok(Some(last)) if last.op() == Some(append.op.to_string().as_str()) => {
                        Ok(last.sequence)
                    }
                    Ok(last)
                        if last.as_ref().map_or(0, |last| last.sequence) == append.expected =>
                    {
                        Err(Transient {
                            err: AppendError::Conflict(last.map(Box::new)),
                            retry_after: None,
                        })
                    }
                    Ok(last) => Err(Permanent(AppendError::Conflict(last.map(Box::new)))),
                    Err(error) => Err(Transient {
                        err: AppendError::Unavailable(error),
                        retry_after: None,
                    }),
                }
            }
            Err(error) if error.is_transient() => Err(Transient {
                err: AppendError::Unavailable(error.into()),
                retry_after: None,
            }),
            Err(error) => Err(Permanent(AppendError::Unavailable(error.into()))),
        }
    }

    /// Writes up to [`MAX_BATCH`] events of *different* tasks, all or none, with one fsync. The server does not
    /// compare the messages of a batch with each other: two events of one task would both be stored.
    ///
    /// Any error leaves open what happened; [`Self::append`] of each event settles it.
    pub async fn append_batch(
        &self,
        appends: &[Append],
        batch: Uuid,
    ) -> Result<Vec<u64>, ApiError> {
        debug_assert!(appends.len() <= MAX_BATCH);
        let Some((last, others)) = appends.split_last() else {
            return Ok(Vec::new());
        };
        let batch_id = batch.simple().to_string();
        let prepare = |append: &Append, position: usize| {
            let mut headers = append.guarded_headers();
            headers.insert("Nats-Batch-Id", batch_id.as_str());
            headers.insert("Nats-Batch-Sequence", position.to_string().as_str());
            (append.subject(), headers, codec::encode(&append.task))
        };
        for (index, append) in others.iter().enumerate() {
            let (subject, headers, payload) = prepare(append, index + 1);
            self.client
                .publish_with_headers(subject.clone(), headers, payload.into())
                .await
                .map_err(|_| ApiError::Unknown(subject))?;
        }
        let (subject, mut headers, payload) = prepare(last, appends.len());
        headers.insert("Nats-Batch-Commit", "1");
        let ack: PubAck =
            jetstream::request(&self.client, &subject, headers, payload.into(), TRY_TIMEOUT)
                .await?;
        let first = ack.seq + 1 - appends.len() as u64;
        Ok((first..=ack.seq).collect())
    }

    /// The task's newest event, read at the leader: what decisions are made on.
    pub async fn last(&self, id: &TaskId) -> Result<Option<Recorded>, ReadError> {
        match self
            .stream
            .get_last_raw_message_by_subject(&names::log_of(id))
            .await
        {
            Ok(message) => Recorded::from_message(message).map(Some),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ReadError::Server(error.to_string())),
        }
    }

    /// Messages of the stream from sequence `from` on that match `filter`, at most `limit`, in order of the log.
    /// Answered by any replica: good enough for readers, not for deciding.
    pub async fn scan(
        &self,
        filter: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let inbox = self.client.new_inbox();
        let mut answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| ReadError::Server(error.to_string()))?;
        let body =
            serde_json::json!({ "batch": limit, "seq": from.max(1), "next_by_subj": filter });
        self.client
            .publish_with_reply(
                format!("$JS.API.DIRECT.GET.{TASKS}"),
                inbox,
                body.to_string().into(),
            )
            .await
            .map_err(|error| ReadError::Server(error.to_string()))?;
        let mut found = Vec::new();
        loop {
            let next = tokio::time::timeout(TRY_TIMEOUT, answers.next()).await;
            let Ok(Some(message)) = next else {
                return Err(ApiError::Unknown(format!("direct get of {filter}")).into());
            };
            // Status messages end the batch: 204 end of batch, 404 nothing found.
            if let Some(status) = message.status {
                return match status.as_u16() {
                    204 | 404 => Ok(found),
                    503 => Err(ApiError::NoResponder("direct get".into()).into()),
                    other => Err(ReadError::Server(format!("direct get answered {other}"))),
                };
            }
            let headers = message.headers.unwrap_or_default();
            let text = |name: &str| {
                headers
                    .get(name)
                    .map(|value| value.as_str().to_owned())
                    .unwrap_or_default()
            };
            let sequence = text("Nats-Sequence").parse().unwrap_or_default();
            let subject = text("Nats-Subject");
            let stored = text("Nats-Time-Stamp")
                .parse::<Timestamp>()
                .map_or(0, Timestamp::as_nanosecond);
            found.push(Recorded::from_parts(
                &subject,
                sequence,
                &message.payload,
                headers,
                stored,
            )?);
        }
    }

    /// All that the log still holds of a task.
    pub async fn history(&self, id: &TaskId) -> Result<Vec<Recorded>, ReadError> {
        // Far more events than a task can have in its rounds before the janitor has seen it.
        self.scan(&names::log_of(id), 1, MAX_BATCH).await
    }

    /// Takes a work item, or an event that no one needs any more, out of the log.
    pub async fn delete(&self, sequence: u64) -> Result<(), ApiError> {
        jetstream::delete_message(&self.client, TASKS, sequence).await
    }
}
