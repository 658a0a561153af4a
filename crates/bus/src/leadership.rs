//! One leader a service, by a lease that is taken and renewed by compare-and-set.
//!
//! No two clocks are compared. A standby takes the lease once it has watched the same revision of it for a whole
//! lease; the leader counts from before it *sent* the renewal that made that revision, and gives up a margin earlier,
//! so that it knows of its loss before anybody can have taken it. What a leader writes is guarded by compare-and-set
//! besides: two that both believe to lead do no harm.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap, Subscriber};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::append::{ReadError, last_message};
use crate::bucket;
use crate::jetstream::{self, JetStreamError, PubAck};
use crate::names::{self, HEADER_EXPECTED, MARKS_BUCKET};

/// Time after which a silent leader is replaced.
pub const LEASE: Duration = Duration::from_secs(10);
/// Looks and renewals a lease: two of them may be lost.
const STEPS_PER_LEASE: u32 = 4;
/// The leader ends its lease early by this part: the clocks of two machines never differ that much in speed.
const MARGIN_DIVISOR: u32 = 10;

pub struct Leadership {
    client: Client,
    stream: Stream<()>,
    subject: String,
    /// Unique to this life of the program.
    holder: String,
    lease: Duration,
    held_until: Arc<watch::Sender<Option<Instant>>>,
}

/// What stands under the key.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// None: the last leader has resigned.
    holder: Option<String>,
}

/// A revision of the lease, and since when it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct WatchedLease {
    revision: u64,
    since: Instant,
}

impl Leadership {
    /// `name` is for people who look at the bucket.
    pub async fn new(client: &Client, service: &str, name: &str) -> Self {
        let context = async_nats::jetstream::new(client.clone());
        let stream = context
            .get_stream_no_info(bucket::stream(MARKS_BUCKET))
            .await
            .expect("it is a valid stream name");
        Self {
            stream,
            subject: names::leader_key(service),
            holder: format!("{name} {}", client.new_inbox()),
            lease: LEASE,
            held_until: Arc::new(watch::Sender::new(None)),
            client: client.clone(),
        }
    }

    /// Another length of the lease; every candidate has to have the same.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    pub fn is_leader(&self) -> bool {
        self.held_until
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Returns once this is the leader, at once if it is.
    pub async fn elected(&self) {
        let mut held = self.held_until.subscribe();
        // The sender lives as long as `self`.
        let _ = held
            .wait_for(|until| until.is_some_and(|until| Instant::now() < until))
            .await;
    }

    /// Stands for election and keeps the lease until told to stop; then resigns, so that a standby leads at once.
    pub async fn run(&self, stopping: &CancellationToken) {
        let mut changes = self.client.subscribe(self.subject.clone()).await.ok();
        let mut watched = None;
        loop {
            match self.step(watched).await {
                Ok(now) => watched = now,
                Err(error) => {
                    tracing::warn!(error = %spotreel_domain::chain(&error), subject = self.subject, "leader lease cannot be read");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => break,
                () = tokio::time::sleep(self.lease / STEPS_PER_LEASE) => {}
                () = resigned(&mut changes) => {}
            }
        }
        self.resign().await;
    }

    /// One look at the lease, and one try to take or renew it. Returns what was seen of another's.
    async fn step(&self, watched: Option<WatchedLease>) -> Result<Option<WatchedLease>, ReadError> {
        let began = Instant::now();
        let last = last_message(&self.stream, &self.subject).await?;
        let revision = last.as_ref().map_or(0, |last| last.sequence);
        let mark: Option<Mark> = last.and_then(|last| serde_json::from_slice(&last.payload).ok());
        let holder = mark.and_then(|mark| mark.holder);
        let seen = match watched {
            Some(before) if before.revision == revision => before,
            _ => WatchedLease {
                revision,
                since: Instant::now(),
            },
        };
        let ours = holder.as_deref() == Some(&self.holder);
        let over = seen.since.elapsed() >= self.lease;
        if !ours {
            self.lose();
        }
        if !ours && holder.is_some() && !over {
            return Ok(Some(seen));
        }
        match self.write(Some(&self.holder), revision).await {
            Ok(_) => {
                self.hold(began);
                Ok(None)
            }
            // Another was first: the next look tells who.
            Err(JetStreamError::Conflict) => {
                self.lose();
                Ok(Some(seen))
            }
            // It may have been stored; then the next look finds it ours. Until then no more than before is held.
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the lease back, if it is ours.
    pub async fn resign(&self) {
        self.lose();
        let last = match last_message(&self.stream, &self.subject).await {
            Ok(Some(last)) => last,
            Ok(None) => return,
            Err(error) => {
                return tracing::debug!(error = %spotreel_domain::chain(&error), "leader lease was not released; it will expire");
            }
        };
        let mark: Option<Mark> = serde_json::from_slice(&last.payload).ok();
        if mark.and_then(|mark| mark.holder).as_deref() != Some(&self.holder) {
            return;
        }
        if let Err(error) = self.write(None, last.sequence).await {
            tracing::debug!(error = %spotreel_domain::chain(&error), "leader lease was not released; it will expire");
        }
    }

    async fn write(&self, holder: Option<&str>, revision: u64) -> Result<u64, JetStreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_EXPECTED, revision.to_string().as_str());
        let mark = Mark {
            holder: holder.map(Into::into),
        };
        let payload = serde_json::to_vec(&mark)?;
        // Longer than half a lease it would keep the next try from being made in time.
        let timeout = self.lease / 2;
        jetstream::request::<PubAck>(
            &self.client,
            &self.subject,
            headers,
            payload.into(),
            timeout,
        )
        .await
        .map(|ack| ack.seq)
    }

    fn hold(&self, since: Instant) {
        let until = since + self.lease - self.lease / MARGIN_DIVISOR;
        if self.held_until.send_replace(Some(until)).is_none() {
            tracing::info!(subject = self.subject, "became leader");
        }
    }

    fn lose(&self) {
        if self.held_until.send_replace(None).is_some() {
            tracing::info!(subject = self.subject, "lost leadership");
        }
    }
}

/// Waits for the word that the leader has resigned; for ever where there is no subscription.
async fn resigned(changes: &mut Option<Subscriber>) {
    while let Some(message) = match changes {
        Some(changes) => changes.next().await,
        None => None,
    } {
        let mark: Option<Mark> = serde_json::from_slice(&message.payload).ok();
        if mark.is_some_and(|mark| mark.holder.is_none()) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
