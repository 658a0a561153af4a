//! The public events: each once, in the order of the log.

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use spotreel_domain::TaskId;
use spotreel_domain::alarm::AlarmName;
use spotreel_domain::batch::BatchId;
use spotreel_domain::webhook::WebhookId;
use uuid::Uuid;

use crate::atomic::{self, Message};
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, JetStreamError, PubAck};
use crate::names::{self, EVENTS, HEADER_EXPECTED, HEADER_EXPECTED_FILTER, HEADER_LOG_SEQUENCE};

/// Events that are published alone at the same time, after the server refused them together.
const SINGLES: usize = 64;

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
    /// Its notices take the place of a log: each has a number.
    Alarm(AlarmName),
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

impl<'a> From<&'a WebhookId> for Topic<'a> {
    fn from(id: &'a WebhookId) -> Self {
        Self::Webhook(id)
    }
}

impl Topic<'_> {
    fn subject(self, event: &str) -> String {
        match self {
            Self::Task(id) => names::event_of(id, event),
            Self::Batch(id) => names::batch_event_of(id, event),
            Self::Webhook(id) => names::webhook_event_of(id, event),
            Self::Alarm(name) => names::alarm_event_of(name, event),
        }
    }

    fn filter(self) -> String {
        match self {
            Self::Task(id) => names::events_of(id),
            Self::Batch(id) => names::batch_events_of(id),
            Self::Webhook(id) => names::webhook_events_of(id),
            Self::Alarm(name) => names::alarm_events_of(name),
        }
    }
}

/// The newest public event of a task, a batch or an alarm: where it stands, and the log event that it tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    pub sequence: u64,
    pub log_sequence: u64,
}

/// What the log of a topic says at `log_sequence`, for clients.
#[derive(Clone, Debug)]
pub struct PublicEvent<'a> {
    pub topic: Topic<'a>,
    pub event: &'a str,
    pub log_sequence: u64,
    pub headers: &'a HeaderMap,
    pub payload: Bytes,
    /// The topic's newest public event as far as it is known.
    pub after: Newest,
}

/// A public event that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// It, or what was published in its place.
    pub newest: Newest,
    /// Stored by this call. False: it or something newer had been published.
    pub now: bool,
}

impl PublicEvent<'_> {
    fn message(&self, expected: u64) -> Message {
        let mut headers = self.headers.clone();
        let sequence = self.log_sequence.to_string();
        headers.insert(HEADER_LOG_SEQUENCE, sequence.as_str());
        let (subject, filter) = (self.topic.subject(self.event), self.topic.filter());
        message(subject, &filter, expected, headers, self.payload.clone())
    }

    fn told_now(&self, sequence: u64) -> StoredEvent {
        let log_sequence = self.log_sequence;
        StoredEvent {
            newest: Newest {
                sequence,
                log_sequence,
            },
            now: true,
        }
    }
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

    /// The newest public event of a topic, read at the leader.
    pub async fn newest<'a>(&self, topic: impl Into<Topic<'a>>) -> Result<Newest, JetStreamError> {
        let filter = topic.into().filter();
        match self.stream.get_last_raw_message_by_subject(&filter).await {
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
            Err(error) => Err(JetStreamError::Unknown(format!("{filter}: {error}"))),
        }
    }

    /// Publishes what the topic's log says at `log_sequence`, unless that or something newer was published. False: it was.
    pub async fn publish<'a>(
        &self,
        topic: impl Into<Topic<'a>>,
        event: &str,
        log_sequence: u64,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<bool, JetStreamError> {
        let topic = topic.into();
        let after = self.newest(topic).await?;
        if after.log_sequence >= log_sequence {
            return Ok(false);
        }
        let event = PublicEvent {
            topic,
            event,
            log_sequence,
            headers: &headers,
            payload,
            after,
        };
        Ok(self.publish_alone(&event).await?.now)
    }

    /// Tries where the event is expected to go, then where the server says.
    async fn publish_alone(&self, event: &PublicEvent<'_>) -> Result<StoredEvent, JetStreamError> {
        match self.store(event.message(event.after.sequence)).await {
            Ok(sequence) => return Ok(event.told_now(sequence)),
            Err(JetStreamError::Conflict) => {}
            Err(error) => return Err(error),
        }
        let newest = self.newest(event.topic).await?;
        if newest.log_sequence >= event.log_sequence {
            return Ok(StoredEvent { newest, now: false });
        }
        let stored = self.store(event.message(newest.sequence)).await?;
        Ok(event.told_now(stored))
    }

    /// Publishes events of *different* topics, up to [`MAX_BATCH`](crate::log::MAX_BATCH), with one fsync. If the server
    /// refuses them together, each is published alone, and its outcome is its own. The error is one of all: the server
    /// cannot be reached, and what happened is open.
    pub async fn publish_together(
        &self,
        events: &[PublicEvent<'_>],
        batch: Uuid,
    ) -> Result<Vec<Result<StoredEvent, JetStreamError>>, JetStreamError> {
        if let [event] = events {
            return Ok(vec![self.publish_alone(event).await]);
        }
        let messages = events
            .iter()
            .map(|event| event.message(event.after.sequence));
        match atomic::publish(
            &self.client,
            messages.collect(),
            &batch.simple().to_string(),
        )
        .await
        {
            Ok(sequences) => {
                let stored = events.iter().zip(sequences);
                Ok(stored
                    .map(|(event, sequence)| Ok(event.told_now(sequence)))
                    .collect())
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                let events = events.iter().map(|event| self.publish_alone(event));
                tracing::debug!(%error, events = events.len(), "events refused together; publishing each alone");
                // Futures first: a stream that maps borrowed events is not general enough to be sent between threads.
                let events: Vec<_> = events.collect();
                Ok(futures::stream::iter(events)
                    .buffered(SINGLES)
                    .collect()
                    .await)
            }
        }
    }

    /// Says that a submission was refused. It tells of no log event, so it takes over the mark of the one before it.
    pub async fn reject(
        &self,
        id: Option<&TaskId>,
        inbox_sequence: u64,
        payload: Bytes,
    ) -> Result<bool, JetStreamError> {
        let mut headers = HeaderMap::new();
        match id {
            Some(id) => {
                let newest = self.newest(id).await?;
                let sequence = newest.log_sequence.to_string();
                headers.insert(HEADER_LOG_SEQUENCE, sequence.as_str());
                let (subject, filter) = (names::event_of(id, "rejected"), names::events_of(id));
                let rejection = message(subject, &filter, newest.sequence, headers, payload);
                self.store(rejection).await.map(|_| true)
            }
            None => {
                let subject = names::rejected(inbox_sequence);
                let rejection = message(subject.clone(), &subject, 0, headers, payload);
                match self.store(rejection).await {
                    Err(JetStreamError::Conflict) => Ok(false),
                    stored => stored.map(|_| true),
                }
            }
        }
    }

    /// The place of the last event, read at the leader; 0: there is none.
    pub async fn last_sequence(&self) -> Result<u64, JetStreamError> {
        match self.stream.get_last_raw_message_by_subject(">").await {
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(JetStreamError::Unknown(format!("{EVENTS}: {error}"))),
        }
    }

    /// The event at a place of EVENTS; none: there never was one, or it is not kept any more.
    pub async fn payload(&self, sequence: u64) -> Result<Option<Bytes>, JetStreamError> {
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(JetStreamError::Unknown(format!(
                "{EVENTS}/{sequence}: {error}"
            ))),
        }
    }

    async fn store(&self, message: Message) -> Result<u64, JetStreamError> {
        let Message {
            subject,
            headers,
            payload,
        } = message;
        let sent =
            jetstream::request::<PubAck>(&self.client, &subject, headers, payload, REQUEST_TIMEOUT);
        sent.await.map(|ack| ack.seq)
    }
}

/// Stored only if the newest message under `filter` has the sequence `expected`; 0: there is none.
fn message(
    subject: String,
    filter: &str,
    expected: u64,
    mut headers: HeaderMap,
    payload: Bytes,
) -> Message {
    headers.insert("Content-Type", "application/cloudevents+json");
    headers.insert(HEADER_EXPECTED, expected.to_string().as_str());
    headers.insert(HEADER_EXPECTED_FILTER, filter);
    Message {
        subject,
        headers,
        payload,
    }
}
