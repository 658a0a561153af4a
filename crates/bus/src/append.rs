//! A guarded write: stored once, and only if the newest message under its filter is still the expected one.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;

use crate::codec;
use crate::jetstream::{self, JetStreamError, PubAck};
use crate::names::{HEADER_EXPECTED, HEADER_EXPECTED_FILTER, HEADER_OP};
use crate::retry;

/// How long one try to append waits for its answer.
pub(crate) const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an append is tried again before its caller hears that the log cannot be reached: longer than a restart
/// of the server with a million tasks (2.3 s measured), shorter than a lease.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// `R` is an event as the log in question records it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError<R> {
    /// Somebody else wrote first; the newest event tells what to do now.
    #[error("another event was written first")]
    Conflict(Option<Box<R>>),
    #[error("the log is full")]
    Full,
    #[error("the event is too large for the log")]
    TooLarge,
    #[error("the log cannot be reached")]
    Unavailable(#[source] ReadError),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the log's message {sequence} cannot be read")]
    Decode {
        sequence: u64,
        source: codec::DecodeError,
    },
    #[error("the log has {subject:?} at {sequence}, which is not an event")]
    Subject { sequence: u64, subject: String },
    #[error(transparent)]
    Api(#[from] JetStreamError),
    #[error("the log did not answer: {0}")]
    Server(String),
}

impl ReadError {
    /// Whether a newer version of a trusted program wrote the event. Such an event is held for a reader that knows it;
    /// only one that is no protobuf is passed over.
    pub fn is_newer_version(&self) -> bool {
        match self {
            Self::Decode { source, .. } => matches!(source, codec::DecodeError::Field(_)),
            Self::Subject { .. } => true,
            Self::Api(_) | Self::Server(_) => false,
        }
    }
}

/// An event as it stands in its log.
pub(crate) trait LogEntry {
    fn sequence(&self) -> u64;
    fn headers(&self) -> &HeaderMap;
}

pub(crate) struct Write {
    pub subject: String,
    /// The newest message under it has to have the sequence `expected`; 0: there is none.
    pub filter: String,
    pub expected: u64,
    /// Unique per intention; the same in every try of it.
    pub op: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

impl Write {
    pub fn guarded_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(HEADER_EXPECTED, self.expected.to_string().as_str());
        headers.insert(HEADER_EXPECTED_FILTER, self.filter.as_str());
        headers.insert(HEADER_OP, self.op.as_str());
        headers
    }

    /// Tries until it is stored or cannot be: one request where nothing is in the way.
    ///
    /// A try without an answer may have been stored: `last`, the newest event at the leader, tells by its operation.
    pub async fn send<R, F>(
        &self,
        client: &Client,
        last: impl Fn() -> F,
    ) -> Result<u64, AppendError<R>>
    where
        R: LogEntry,
        F: Future<Output = Result<Option<R>, ReadError>>,
    {
        let policy = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(20))
            .with_max_interval(Duration::from_secs(2))
            .with_max_elapsed_time(Some(GIVE_UP_AFTER))
            .build();
        retry(policy, || self.try_send(client, &last)).await
    }

    async fn try_send<R, F>(
        &self,
        client: &Client,
        last: &impl Fn() -> F,
    ) -> Result<u64, backoff::Error<AppendError<R>>>
    where
        R: LogEntry,
        F: Future<Output = Result<Option<R>, ReadError>>,
    {
        use backoff::Error::Permanent;
        let again = backoff::Error::transient;
        let sent = jetstream::request::<PubAck>(
            client,
            &self.subject,
            self.guarded_headers(),
            self.payload.clone(),
            TRY_TIMEOUT,
        );
        match sent.await {
            Ok(ack) => Ok(ack.seq),
            Err(JetStreamError::Full) => Err(Permanent(AppendError::Full)),
            Err(JetStreamError::TooLarge) => Err(Permanent(AppendError::TooLarge)),
            Err(error @ (JetStreamError::Conflict | JetStreamError::Unknown(_))) => {
                match last().await {
                    Ok(Some(last)) if self.is_told_by(&last) => Ok(last.sequence()),
                    Ok(last) => {
                        let newest = last.as_ref().map_or(0, R::sequence);
                        let conflict = AppendError::Conflict(last.map(Box::new));
                        match error {
                            _ if newest != self.expected => Err(Permanent(conflict)),
                            JetStreamError::Conflict => Err(again(conflict)),
                            // Nobody came first: the server does not store, as when its disk is full.
                            silence => Err(again(AppendError::Unavailable(silence.into()))),
                        }
                    }
                    Err(error) => Err(again(AppendError::Unavailable(error))),
                }
            }
            Err(error) if error.is_transient() => {
                Err(again(AppendError::Unavailable(error.into())))
            }
            Err(error) => Err(Permanent(AppendError::Unavailable(error.into()))),
        }
    }

    fn is_told_by(&self, entry: &impl LogEntry) -> bool {
        let op = entry.headers().get(HEADER_OP);
        op.is_some_and(|op| op.as_str() == self.op)
    }
}

/// The newest message under `filter`, read at the leader.
pub(crate) async fn last_message(
    stream: &Stream<()>,
    filter: &str,
) -> Result<Option<StreamMessage>, ReadError> {
    match stream.get_last_raw_message_by_subject(filter).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(ReadError::Server(error.to_string())),
    }
}
