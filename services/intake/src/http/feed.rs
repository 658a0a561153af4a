//! Public events for followers over HTTP.
//!
//! One consumer for the whole program hears of what is new; who follows reads what is old from the stream, and goes on
//! with what is heard. Whoever reads too slowly misses what was heard meanwhile, and reads it from the stream then: a
//! slow reader costs a place in a queue of fixed length, nobody else's time, and loses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use spotreel_bootstrap::Context;
use spotreel_bus::jetstream::{self, JetStreamError, Start, Stored};
use spotreel_bus::names::{EVENTS, HEADER_LOG_SEQUENCE};
use tokio::sync::broadcast::{self, error::RecvError};

/// Public events of tasks; those of batches are for people who run the fleet.
const TASK_EVENTS: &str = "spotreel.task.>";
/// Events that a follower may be behind before it reads the stream again.
const HEARD: usize = 256;
/// Old events read at once.
const PAGE: usize = 64;
/// Interval at which a follower without new events reads the stream. It is the maximum delay of an event that the feed missed, or
/// that a lagging replica did not have yet.
const READ_AGAIN: Duration = Duration::from_secs(15);
/// Between tries to hear again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type HearError = Box<dyn std::error::Error + Send + Sync>;

/// A public event, and its place in the stream.
#[derive(Debug)]
pub struct Told {
    pub sequence: u64,
    /// The event of the task log that it tells of; 0: of none.
    pub log_sequence: u64,
    pub subject: String,
    pub payload: Bytes,
}

#[derive(Clone)]
pub struct Feed {
    client: Client,
    heard: broadcast::Sender<Arc<Told>>,
}

/// The events under one subject, each once and in order, from a place on.
pub struct Following {
    feed: Feed,
    /// Ends with `.>`, or is all of [`TASK_EVENTS`].
    filter: String,
    after: u64,
    /// Events that tell of earlier ones of the log are of another life of the id.
    born: u64,
    heard: broadcast::Receiver<Arc<Told>>,
    read: VecDeque<Arc<Told>>,
    /// There may be more in the stream than was read.
    behind: bool,
}

impl Told {
    /// `succeeded`, out of `spotreel.task.<id>.succeeded`.
    pub fn event(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }
}

impl Feed {
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            heard: broadcast::Sender::new(HEARD),
        }
    }

    /// Hears until told to stop.
    pub async fn hear(self, ctx: Context) -> anyhow::Result<()> {
        let mut after = None;
        while !ctx.stopping.is_cancelled() {
            let hearing = ctx.stopping.run_until_cancelled(self.hear_from(&mut after));
            if let Some(Err(error)) = hearing.await {
                tracing::warn!(error = %spotreel_domain::chain(&*error), "subscription to EVENTS lost; followers wait until it is restored");
            }
            let pause = tokio::time::sleep(RETRY_AFTER);
            ctx.stopping.run_until_cancelled(pause).await;
        }
        Ok(())
    }

    async fn hear_from(&self, after: &mut Option<u64>) -> Result<(), HearError> {
        let context = async_nats::jetstream::new(self.client.clone());
        // A place from the first try on: what is told between two tries is heard in the second one.
        let from = match *after {
            Some(after) => after,
            None => *after.insert(self.newest().await?),
        };
        let deliver_policy = DeliverPolicy::ByStartSequence {
            start_sequence: from + 1,
        };
        let consumer = push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: TASK_EVENTS.into(),
            deliver_policy,
            ..push::OrderedConfig::default()
        };
        let stream = context.get_stream_no_info(EVENTS).await?;
        let mut events = stream.create_consumer(consumer).await?.messages().await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let sequence = event.info()?.stream_sequence;
            *after = Some(sequence);
            // Nobody follows: that is no error.
            let _ = self.heard.send(Arc::new(Told {
                sequence,
                log_sequence: log_sequence(event.message.headers.as_ref()),
                subject: event.message.subject.to_string(),
                payload: event.message.payload,
            }));
        }
        Ok(())
    }

    /// The events that `filter` names, that come after the place, and that tell of no event of the log before `born`.
    pub fn follow(&self, filter: String, after: u64, born: u64) -> Following {
        Following {
            filter,
            after,
            born,
            // Heard from now on, before the stream is read: nothing falls between the two.
            heard: self.heard.subscribe(),
            read: VecDeque::new(),
            behind: true,
            feed: self.clone(),
        }
    }

    pub fn follow_all(&self, after: u64) -> Following {
        self.follow(TASK_EVENTS.to_owned(), after, 0)
    }

    /// The place of the newest event.
    pub async fn newest(&self) -> Result<u64, JetStreamError> {
        let context = async_nats::jetstream::new(self.client.clone());
        let unread = |error: &dyn std::fmt::Display| JetStreamError::Unknown(error.to_string());
        let stream = context.get_stream_no_info(EVENTS).await;
        let info = stream.map_err(|error| unread(&error))?.get_info().await;
        Ok(info.map_err(|error| unread(&error))?.state.last_sequence)
    }
}

impl Following {
    /// The next event, whenever it comes.
    pub async fn next(&mut self) -> Result<Arc<Told>, JetStreamError> {
        loop {
            if let Some(told) = self.next_stored().await? {
                return Ok(told);
            }
            match tokio::time::timeout(READ_AGAIN, self.heard.recv()).await {
                Ok(Ok(told)) if told.sequence > self.after && self.names(&told) => {
                    self.after = told.sequence;
                    return Ok(told);
                }
                Ok(Ok(_)) => {}
                Ok(Err(RecvError::Lagged(_))) | Err(_) => self.behind = true,
                // The feed holds the sender, and we hold the feed.
                Ok(Err(RecvError::Closed)) => std::future::pending().await,
            }
        }
    }

    /// The next event that lies in the stream; none: all of them were given.
    pub async fn next_stored(&mut self) -> Result<Option<Arc<Told>>, JetStreamError> {
        while self.read.is_empty() && self.behind {
            let page = self.page(PAGE).await?;
            self.behind = page.len() == PAGE;
            self.after = page.last().map_or(self.after, |last| last.sequence);
            let page = page.into_iter().map(|stored| {
                Arc::new(Told {
                    sequence: stored.sequence,
                    log_sequence: log_sequence(Some(&stored.headers)),
                    subject: stored.subject,
                    payload: stored.payload,
                })
            });
            let born = self.born;
            self.read
                .extend(page.filter(|told| told.log_sequence >= born));
        }
        Ok(self.read.pop_front())
    }

    /// Nothing newer lies in the stream. When that cannot be read, the question is asked again after the next event.
    pub async fn is_at_end(&self) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        self.page(1).await.is_ok_and(|next| next.is_empty())
    }

    async fn page(&self, limit: usize) -> Result<Vec<Stored>, JetStreamError> {
        let start = Start::Sequence(self.after + 1);
        jetstream::page(&self.feed.client, EVENTS, &self.filter, start, limit).await
    }

    fn names(&self, told: &Told) -> bool {
        let is_named = told.subject.starts_with(self.filter.trim_end_matches('>'));
        is_named && told.log_sequence >= self.born
    }
}

fn log_sequence(headers: Option<&HeaderMap>) -> u64 {
    let header = headers.and_then(|headers| headers.get(HEADER_LOG_SEQUENCE));
    header
        .and_then(|value| value.as_str().parse().ok())
        .unwrap_or_default()
}
