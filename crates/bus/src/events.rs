//! The public events: each once, in the order of the log.

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use spotreel_domain::TaskId;
use spotreel_domain::batch::BatchId;
use spotreel_domain::webhook::WebhookId;

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{self, EVENTS, HEADER_EXPECTED, HEADER_EXPECTED_FILTER, HEADER_LOG_SEQUENCE};

#[derive(Clone)]
pub struct EventStream {
    client: Client,
    stream: async_nats::jetstream::stream::Stream<()>,
}

/// What a public event tells of.
#[derive(Clone, Copy, Debug)]
pub enum Topic<'a> {
    Task(&'a TaskId),
    Batch(&'a BatchId),
    Webhook(&'a WebhookId),
}

impl<'a> From<&'a WebhookId> for Topic<'a> {
    fn from(id: &'a WebhookId) -> Self {
        Self::Webhook(id)
    }
}

impl<'a> From<&'a TaskId> for Topic<'a> {
    fn from(id: &'a TaskId) -> Self {
        Self::Task(id)
    }
}

impl<'a> From<&'a BatchId> for Topic<'a> {
    fn from(id: &'a BatchId) -> Self {
        Self::Batch(id)
    }
}

impl Topic<'_> {
    fn subject(self, event: &str) -> String {
        match self {
            Self::Task(id) => names::event_of(id, event),
            Self::Batch(id) => names::batch_event_of(id, event),
            Self::Webhook(id) => names::webhook_event_of(id, event),
        }
    }

    fn filter(self) -> String {
        match self {
            Self::Task(id) => names::events_of(id),
            Self::Batch(id) => names::batch_events_of(id),
            Self::Webhook(id) => names::webhook_events_of(id),
        }
    }
}

/// The newest public event of a task or a batch: where it stands, and the log event that it tells of.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    sequence: u64,
    log_sequence: u64,
}

impl EventStream {
    pub async fn open(client: &Client) -> Self {
        let context = async_nats::jetstream::new(client.clone());
        let stream = context
            .get_stream_no_info(EVENTS)
            .await
            .expect("EVENTS is a valid stream name");
        Self {
            client: client.clone(),
            stream,
        }
    }

    /// Publishes what the topic's log says at `log_sequence`, unless that or something newer was published. False: it was.
    pub async fn publish<'a>(
        &self,
        topic: impl Into<Topic<'a>>,
        event: &str,
        log_sequence: u64,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<bool, ApiError> {
        let topic = topic.into();
        let filter = topic.filter();
        let newest = self.newest(&filter).await?;
        if newest.log_sequence >= log_sequence {
            return Ok(false);
        }
        headers.insert(HEADER_LOG_SEQUENCE, log_sequence.to_string().as_str());
        self.store(
            &topic.subject(event),
            &filter,
            newest.sequence,
            headers,
            payload,
        )
        .await
    }

    /// Says that a submission was refused. It tells of no log event, so it takes over the mark of the one before it.
    pub async fn reject(
        &self,
        id: Option<&TaskId>,
        inbox_sequence: u64,
        payload: Bytes,
    ) -> Result<bool, ApiError> {
        let mut headers = HeaderMap::new();
        match id {
            Some(id) => {
                let filter = names::events_of(id);
                let newest = self.newest(&filter).await?;
                headers.insert(
                    HEADER_LOG_SEQUENCE,
                    newest.log_sequence.to_string().as_str(),
                );
                self.store(
                    &names::event_of(id, "rejected"),
                    &filter,
                    newest.sequence,
                    headers,
                    payload,
                )
                .await
            }
            None => {
                let subject = names::rejected(inbox_sequence);
                match self.store(&subject, &subject, 0, headers, payload).await {
                    Err(ApiError::Conflict) => Ok(false),
                    other => other,
                }
            }
        }
    }

    /// The event at a place of EVENTS; none: there never was one, or it is not kept any more.
    pub async fn payload(&self, sequence: u64) -> Result<Option<Bytes>, ApiError> {
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ApiError::Unknown(format!("{EVENTS}/{sequence}: {error}"))),
        }
    }

    async fn store(
        &self,
        subject: &str,
        filter: &str,
        expected: u64,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<bool, ApiError> {
        headers.insert("Content-Type", "application/cloudevents+json");
        headers.insert(HEADER_EXPECTED, expected.to_string().as_str());
        headers.insert(HEADER_EXPECTED_FILTER, filter);
        jetstream::request::<PubAck>(&self.client, subject, headers, payload, REQUEST_TIMEOUT)
            .await
            .map(|_| true)
    }

    async fn newest(&self, filter: &str) -> Result<Newest, ApiError> {
        match self.stream.get_last_raw_message_by_subject(filter).await {
            Ok(message) => Ok(Newest {
                sequence: message.sequence,
                log_sequence: message
                    .headers
                    .get(HEADER_LOG_SEQUENCE)
                    .and_then(|value| value.as_str().parse().ok())
                    .unwrap_or_default(),
            }),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Ok(Newest::default())
            }
            Err(error) => Err(ApiError::Unknown(format!("{filter}: {error}"))),
        }
    }
}
