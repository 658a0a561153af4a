//! Pulling from a durable consumer one message at a time, and acks that are known to have arrived.
//!
//! async-nats' own pull streams ask for more while the caller is busy, and park those messages with it for a whole
//! lease; its double ack takes "nobody is there" for a yes. Both are plain requests, so they are made as such here.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use spotreel_domain::task::LONGEST_RETRY_DELAY;
use tokio_util::sync::CancellationToken;

use crate::batches::RecordedBatch;
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, JetStreamError};
use crate::log::{ReadError, Recorded};
use crate::retry;

/// Slack for the server's answer that a pull has expired.
const PULL_SLACK: Duration = Duration::from_secs(1);
const ACK: &str = "+ACK";
/// An ack is tried this long; then the lease ends by itself and the message is delivered again.
const ACK_GIVE_UP_AFTER: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Queue {
    pub(crate) client: Client,
    /// Kept, because each new one starts a task of its own.
    context: async_nats::jetstream::Context,
    pub(crate) stream: &'static str,
    pub(crate) consumer: String,
    ack_wait: Duration,
}

/// A message that is ours until the lease ends.
#[derive(Clone, Debug)]
pub struct Delivery {
    client: Client,
    pub subject: String,
    pub sequence: u64,
    pub delivered: i64,
    pub stored_nanos: i128,
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// Subjects, headers and payload, in bytes.
    pub length: usize,
    reply: String,
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("consumer {consumer} of stream {stream} is not there: run `spotreel provision`")]
    Missing {
        stream: &'static str,
        consumer: String,
    },
    #[error("the NATS server did not answer")]
    NoAnswer,
    #[error("the NATS server refused: {0}")]
    Refused(String),
}

impl Queue {
    /// Opens a consumer that `spotreel provision` has made; no service makes one.
    pub async fn open(
        client: &Client,
        stream: &'static str,
        consumer: &str,
    ) -> Result<Self, QueueError> {
        let context = async_nats::jetstream::new(client.clone());
        let found: Result<PullConsumer, _> =
            context.get_consumer_from_stream(consumer, stream).await;
        match found {
            Ok(found) => Ok(Self {
                client: client.clone(),
                context,
                stream,
                consumer: consumer.to_owned(),
                ack_wait: found.cached_info().config.ack_wait,
            }),
            Err(error) if error.to_string().contains("timed out") => Err(QueueError::NoAnswer),
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), stream, consumer, "consumer lookup failed");
                Err(QueueError::Missing {
                    stream,
                    consumer: consumer.to_owned(),
                })
            }
        }
    }

    /// The sequence up to which the consumer has acked every event.
    pub async fn ack_floor(
        client: &Client,
        stream: &str,
        consumer: &str,
    ) -> Result<u64, JetStreamError> {
        #[derive(Deserialize)]
        struct Info {
            ack_floor: Floor,
        }
        #[derive(Deserialize)]
        struct Floor {
            stream_seq: u64,
        }
        let info: Info = jetstream::consumer_info(client, stream, consumer).await?;
        Ok(info.ack_floor.stream_seq)
    }

    pub fn name(&self) -> &str {
        &self.consumer
    }

    pub fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// The next message: at once or not at all with `wait` zero, else within `wait`.
    ///
    /// Dropped before it is done, a message that is on its way stays leased to nobody until its lease ends: let it
    /// run, or end it with [`Self::pull_until`].
    pub async fn pull(&self, wait: Duration) -> Result<Option<Delivery>, QueueError> {
        self.pull_until(wait, &CancellationToken::new()).await
    }

    /// As [`Self::pull`]; `enough` ends it early, and what was on its way by then is still given.
    pub async fn pull_until(
        &self,
        wait: Duration,
        enough: &CancellationToken,
    ) -> Result<Option<Delivery>, QueueError> {
        let body = match wait.is_zero() {
            true => serde_json::json!({ "batch": 1, "no_wait": true }),
            false => {
                serde_json::json!({ "batch": 1, "expires": u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX) })
            }
        };
        // A delivery bears the subject that it was stored under: the client's shared inbox, which sorts answers by
        // their subject, would drop it.
        let inbox = self.client.new_inbox();
        let mut answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|_| QueueError::NoAnswer)?;
        // The server ends the subscription, and with it the pull, behind the first message to the inbox.
        answers
            .unsubscribe_after(1)
            .await
            .map_err(|_| QueueError::NoAnswer)?;
        self.ask("MSG.NEXT", &inbox, body.to_string()).await?;
        let wait = wait + REQUEST_TIMEOUT.max(PULL_SLACK);
        let answer = tokio::select! {
            answer = tokio::time::timeout(wait, answers.next()) => answer,
            () = enough.cancelled() => {
                // So the answer to any question ends a pull, unless a delivery was first.
                self.ask("INFO", &inbox, String::new()).await?;
                tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await
            }
        };
        match answer {
            Ok(Some(answer)) if answer.status.is_none() && *answer.subject == inbox => Ok(None),
            Ok(Some(message)) => self.interpret(message),
            _ => Err(QueueError::NoAnswer),
        }
    }

    async fn ask(&self, question: &str, inbox: &str, body: String) -> Result<(), QueueError> {
        let subject = format!(
            "$JS.API.CONSUMER.{question}.{}.{}",
            self.stream, self.consumer
        );
        self.client
            .publish_with_reply(subject, inbox.to_owned(), body.into())
            .await
            .map_err(|_| QueueError::NoAnswer)
    }

    /// What is there now, up to `limit` and no more than `bytes` together, without waiting. A first message that is larger
    /// is never given.
    pub async fn pull_within(
        &self,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Delivery>, QueueError> {
        let wanted = serde_json::json!({ "batch": limit, "no_wait": true, "max_bytes": bytes });
        let inbox = self.client.new_inbox();
        let mut answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|_| QueueError::NoAnswer)?;
        self.ask("MSG.NEXT", &inbox, wanted.to_string()).await?;
        let mut ready = Vec::new();
        while ready.len() < limit {
            match tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await {
                Ok(Some(message)) => match self.interpret(message)? {
                    Some(delivery) => ready.push(delivery),
                    None => break,
                },
                // What has arrived is ours already; the rest comes again after its lease.
                _ if !ready.is_empty() => break,
                _ => return Err(QueueError::NoAnswer),
            }
        }
        Ok(ready)
    }

    fn interpret(&self, message: async_nats::Message) -> Result<Option<Delivery>, QueueError> {
        if let Some(status) = message.status {
            // 404 nothing there, 408 expired, 409 the pull was ended (a restart, a new leader).
            return match status.as_u16() {
                404 | 408 | 409 => Ok(None),
                503 => Err(QueueError::NoAnswer),
                _ => Err(QueueError::Refused(message.description.unwrap_or_default())),
            };
        }
        let Some(reply) = message.reply.clone() else {
            return Err(QueueError::Refused(
                "a delivery without a reply subject".into(),
            ));
        };
        let (subject, payload) = (message.subject.to_string(), message.payload.clone());
        let headers = message.headers.clone().unwrap_or_default();
        let length = message.length;
        let context = self.context.clone();
        let message = async_nats::jetstream::Message { message, context };
        let info = message
            .info()
            .map_err(|error| QueueError::Refused(error.to_string()))?;
        Ok(Some(Delivery {
            client: self.client.clone(),
            subject,
            sequence: info.stream_sequence,
            delivered: info.delivered,
            stored_nanos: info.published.unix_timestamp_nanos(),
            headers,
            payload,
            length,
            reply: reply.to_string(),
        }))
    }
}

/// As [`Delivery::ack`], for all. The server handles them in order, so the answer to the last stands for those before it.
pub(crate) async fn ack_all(deliveries: &[&Delivery]) -> Result<(), QueueError> {
    let Some((last, others)) = deliveries.split_last() else {
        return Ok(());
    };
    for delivery in others {
        let reply = delivery.reply.clone();
        // One that does not arrive costs a redelivery.
        let _ = delivery.client.publish(reply, ACK.into()).await;
    }
    last.ack().await
}

impl Delivery {
    /// The log event that was delivered.
    pub fn recorded(&self) -> Result<Recorded, ReadError> {
        Recorded::from_parts(
            &self.subject,
            self.sequence,
            &self.payload,
            self.headers.clone(),
            self.stored_nanos,
        )
    }

    /// The event of the batch log that was delivered.
    pub fn recorded_batch(&self) -> Result<RecordedBatch, ReadError> {
        RecordedBatch::from_parts(
            &self.subject,
            self.sequence,
            &self.payload,
            self.headers.clone(),
            self.stored_nanos,
        )
    }

    /// Done for good. Returns once the server has said so.
    pub async fn ack(&self) -> Result<(), QueueError> {
        self.say(ACK.into()).await
    }

    /// Back to the queue, at once or after `delay`, which is cut at the longest delay before a retry: a wrong clock would
    /// hide the message for decades.
    pub async fn nak(&self, delay: Duration) -> Result<(), QueueError> {
        self.nak_for(delay.min(LONGEST_RETRY_DELAY)).await
    }

    /// As [`Self::nak`], however long the delay is.
    pub async fn nak_for(&self, delay: Duration) -> Result<(), QueueError> {
        let word = match delay.is_zero() {
            true => "-NAK".to_owned(),
            false => format!("-NAK {{\"delay\":{}}}", delay.as_nanos()),
        };
        self.say(word).await
    }

    /// The lease begins anew. Not confirmed: the next one comes soon.
    pub async fn in_progress(&self) {
        // A client that is closed has ended its lease anyway.
        let _ = self.client.publish(self.reply.clone(), "+WPI".into()).await;
    }

    async fn say(&self, word: String) -> Result<(), QueueError> {
        let policy = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(50))
            .with_max_interval(Duration::from_secs(2))
            .with_max_elapsed_time(Some(ACK_GIVE_UP_AFTER))
            .build();
        retry(policy, || async {
            let request = Request::new()
                .payload(word.clone().into())
                .timeout(Some(REQUEST_TIMEOUT));
            self.client
                .send_request(self.reply.clone(), request)
                .await
                .map(drop)
                .map_err(|_| backoff::Error::transient(QueueError::NoAnswer))
        })
        .await
    }
}
