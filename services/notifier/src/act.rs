//! One log event after the other becomes public.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use jiff::Timestamp;
use spotreel_api::{CloudEvent, Video};
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::events::{EventStream, Topic};
use spotreel_bus::jetstream::ApiError;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{BATCHES, CONSUMER_NOTIFIER, TASKS};
use spotreel_bus::{Delivery, Queue, Recorded, RecordedBatch, trace};
use spotreel_domain::TaskId;
use spotreel_domain::task::{Artifact, Event, State};
use spotreel_s3::Store;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::NotifierConfig;
use crate::error::NotifyError;
use crate::metrics;

/// Failures in a row of one event until a person is asked to look: with the default delays half a minute, longer than
/// a restart of the server.
const TRIES_UNTIL_ERROR: u32 = 10;
/// Trace context goes with the event: one trace from the submission to whoever hears of its end.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// A log that is told to clients. Each is told in its own order, and neither waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Tasks,
    Batches,
}

impl Log {
    pub const ALL: [Self; 2] = [Self::Tasks, Self::Batches];

    fn stream(self) -> &'static str {
        match self {
            Self::Tasks => TASKS,
            Self::Batches => BATCHES,
        }
    }

    /// The checks in `/readyz`.
    fn consumer_check(self) -> &'static str {
        match self {
            Self::Tasks => "consumer notifier of TASKS",
            Self::Batches => "consumer notifier of BATCHES",
        }
    }

    fn publish_check(self) -> &'static str {
        match self {
            Self::Tasks => "publishing of TASKS",
            Self::Batches => "publishing of BATCHES",
        }
    }

    fn version_check(self) -> &'static str {
        match self {
            Self::Tasks => "events of TASKS are of a known version",
            Self::Batches => "events of BATCHES are of a known version",
        }
    }

    fn read(self, delivery: &Delivery) -> Result<Entry, ReadError> {
        Ok(match self {
            Self::Tasks => Entry::Task(Box::new(delivery.recorded()?)),
            Self::Batches => Entry::Batch(Box::new(delivery.recorded_batch()?)),
        })
    }
}

/// One event of a log.
#[derive(Clone, Debug)]
pub enum Entry {
    Task(Box<Recorded>),
    Batch(Box<RecordedBatch>),
}

impl Entry {
    fn event(&self) -> &'static str {
        match self {
            Self::Task(recorded) => recorded.event.as_str(),
            Self::Batch(recorded) => recorded.batch.status.name(),
        }
    }

    fn id(&self) -> String {
        match self {
            Self::Task(recorded) => recorded.task.id.to_string(),
            Self::Batch(recorded) => recorded.batch.id.to_string(),
        }
    }

    fn stored_at(&self) -> Timestamp {
        match self {
            Self::Task(recorded) => recorded.stored_at,
            Self::Batch(recorded) => recorded.stored_at,
        }
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Now,
    /// This notifier before a crash, or another one.
    Before,
}

pub struct Notifier {
    client: Client,
    events: EventStream,
    store: Store,
    config: NotifierConfig,
}

impl Notifier {
    pub async fn new(client: &Client, store: Store, config: NotifierConfig) -> Self {
        Self {
            client: client.clone(),
            events: EventStream::open(client).await,
            store,
            config,
        }
    }

    /// Not ready until the consumers have been found.
    pub fn announce(&self, health: &Health) {
        for log in Log::ALL {
            health.expect(log.consumer_check());
            health.set(log.publish_check(), Ok::<(), &str>(()));
            health.set(log.version_check(), Ok::<(), &str>(()));
        }
    }

    /// Publishes until told to stop.
    pub async fn run(&self, health: &Health, stopping: &CancellationToken) {
        tokio::join!(
            Box::pin(self.tell(Log::Tasks, health, stopping)),
            Box::pin(self.tell(Log::Batches, health, stopping)),
        );
    }

    async fn tell(&self, log: Log, health: &Health, stopping: &CancellationToken) {
        let mut delay = self.config.retry_first;
        while !stopping.is_cancelled() {
            let error = match Queue::open(&self.client, log.stream(), CONSUMER_NOTIFIER).await {
                Ok(queue) => match self.drain(log, &queue, health, stopping, &mut delay).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, stream = log.stream(), "pulling events failed; retrying");
            health.set(log.consumer_check(), Err(error));
            self.pause(&mut delay, stopping).await;
        }
    }

    async fn drain(
        &self,
        log: Log,
        queue: &Queue,
        health: &Health,
        stopping: &CancellationToken,
        delay: &mut Duration,
    ) -> Result<(), spotreel_bus::queue::QueueError> {
        health.set(log.consumer_check(), Ok::<(), &str>(()));
        while !stopping.is_cancelled() {
            let next = queue.pull(self.config.pull_wait).await?;
            *delay = self.config.retry_first;
            let Some(delivery) = next else {
                // An event that this version does not know would be here again: another notifier has published it.
                health.set(log.version_check(), Ok::<(), &str>(()));
                continue;
            };
            let span = tracing::info_span!("notify", subject = delivery.subject);
            trace::adopt(&span, &delivery.headers);
            self.take(log, &delivery, health, stopping)
                .instrument(span)
                .await;
        }
        Ok(())
    }

    /// Publishes one delivery and acks it, however often it takes. At a stop it is handed back to the next notifier.
    async fn take(
        &self,
        log: Log,
        delivery: &Delivery,
        health: &Health,
        stopping: &CancellationToken,
    ) {
        let entry = match log.read(delivery) {
            Ok(entry) => {
                health.set(log.version_check(), Ok::<(), &str>(()));
                entry
            }
            Err(error) if error.is_newer_version() => {
                return self.hold(log, delivery, error, health, stopping).await;
            }
            Err(error) => {
                let (subject, sequence) = (&delivery.subject, delivery.sequence);
                tracing::error!(error = %spotreel_domain::chain(&error), subject, sequence, "event is not protobuf; skipped, clients do not receive it");
                metrics::unreadable();
                return self.ack(delivery).await;
            }
        };
        let (mut delay, mut tries) = (self.config.retry_first, 0);
        loop {
            match self.publish_entry(&entry).await {
                Ok(said) => {
                    health.set(log.publish_check(), Ok::<(), &str>(()));
                    count(&entry, said);
                    return self.ack(delivery).await;
                }
                // Another notifier was there in between: what it wrote decides.
                Err(NotifyError::Store(ApiError::Conflict)) => {
                    tracing::debug!(
                        id = entry.id(),
                        sequence = delivery.sequence,
                        "another notifier published first"
                    );
                }
                Err(error) => {
                    tries += 1;
                    self.report(log, delivery, &error, tries, health);
                }
            }
            // The lease is kept: nobody else would fare better, and the order must hold.
            delivery.in_progress().await;
            self.pause(&mut delay, stopping).await;
            if stopping.is_cancelled() {
                if let Err(error) = delivery.nak(Duration::ZERO).await {
                    tracing::debug!(%error, "nak failed; the event will be redelivered");
                }
                return;
            }
        }
    }

    /// Hands an event of a newer version back. It is the only one that the consumer hands out, so those behind it wait.
    async fn hold(
        &self,
        log: Log,
        delivery: &Delivery,
        error: ReadError,
        health: &Health,
        stopping: &CancellationToken,
    ) {
        let error = spotreel_domain::chain(&error);
        let (subject, sequence) = (&delivery.subject, delivery.sequence);
        if delivery.delivered == 1 {
            tracing::error!(
                error,
                subject,
                sequence,
                "event of a newer version; it and all later events wait until notifier is upgraded"
            );
        } else {
            tracing::debug!(
                error,
                subject,
                sequence,
                "event of a newer version still waits"
            );
        }
        metrics::held();
        let reason = format!(
            "{subject} at {sequence} was written by a newer version: upgrade notifier ({error})"
        );
        health.set(log.version_check(), Err(reason));
        if let Err(error) = delivery.nak(self.config.retry_first).await {
            tracing::debug!(%error, "nak failed; the event will be redelivered");
        }
        // A newer notifier that waits for it is served first.
        let mut long = self.config.retry_longest;
        self.pause(&mut long, stopping).await;
    }

    async fn publish_entry(&self, entry: &Entry) -> Result<Said, NotifyError> {
        match entry {
            Entry::Task(recorded) => self.publish(recorded).await,
            Entry::Batch(recorded) => self.publish_batch(recorded).await,
        }
    }

    /// As [`Self::publish`], of a batch.
    pub async fn publish_batch(&self, recorded: &RecordedBatch) -> Result<Said, NotifyError> {
        let (sequence, batch) = (recorded.sequence, &recorded.batch);
        let event = CloudEvent::of_batch(sequence, batch, recorded.stored_at);
        let topic = Topic::from(&batch.id);
        self.say(
            topic,
            batch.status.name(),
            sequence,
            &recorded.headers,
            &event,
        )
        .await
    }

    /// Publishes an event, unless it or a newer one of the task has been published.
    pub async fn publish(&self, recorded: &Recorded) -> Result<Said, NotifyError> {
        if let Some(queued) = queued_before(recorded) {
            self.publish_one(&queued).await?;
        }
        self.publish_one(recorded).await
    }

    async fn publish_one(&self, recorded: &Recorded) -> Result<Said, NotifyError> {
        let video = match &recorded.task.state {
            State::Succeeded { artifact } => Some(self.video(&recorded.task.id, artifact).await?),
            _ => None,
        };
        let (sequence, event, task) = (recorded.sequence, recorded.event, &recorded.task);
        let public = CloudEvent::of_task(sequence, event, task, video);
        let topic = Topic::from(&task.id);
        self.say(topic, event.as_str(), sequence, &recorded.headers, &public)
            .await
    }

    async fn say(
        &self,
        topic: Topic<'_>,
        name: &str,
        sequence: u64,
        logged: &HeaderMap,
        event: &impl serde::Serialize,
    ) -> Result<Said, NotifyError> {
        let payload = serde_json::to_vec(event)?;
        let mut headers = HeaderMap::new();
        for header in TRACE_HEADERS {
            if let Some(value) = logged.get(header) {
                headers.insert(header, value.clone());
            }
        }
        let stored = self
            .events
            .publish(topic, name, sequence, headers, payload.into())
            .await?;
        Ok(if stored { Said::Now } else { Said::Before })
    }

    async fn video(&self, id: &TaskId, artifact: &Artifact) -> Result<Video, NotifyError> {
        let expires = self.config.link_expires;
        let name = format!("{id}.mp4");
        let signed = self.store.presign_get(&artifact.key, Some(&name), expires);
        match signed.await {
            Ok(link) => Ok(Video {
                artifact: artifact.clone(),
                poster_url: self.poster(artifact).await,
                url: Some(link.url),
                url_expires_at: ambient::now().saturating_add(link.lasts).ok(),
            }),
            Err(source) if source.retryable() => Err(NotifyError::Link {
                key: artifact.key.clone(),
                source,
            }),
            Err(error) => {
                tracing::error!(error = %spotreel_domain::chain(&error), key = artifact.key, "signing the video link failed; publishing the event without it");
                Ok(Video {
                    artifact: artifact.clone(),
                    url: None,
                    url_expires_at: None,
                    poster_url: None,
                })
            }
        }
    }

    async fn poster(&self, artifact: &Artifact) -> Option<String> {
        let key = artifact.poster.as_ref()?;
        let expires = self.config.link_expires;
        match self.store.presign_get(key, None, expires).await {
            Ok(link) => Some(link.url),
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), key, "signing the poster link failed");
                None
            }
        }
    }

    fn report(
        &self,
        log: Log,
        delivery: &Delivery,
        error: &NotifyError,
        tries: u32,
        health: &Health,
    ) {
        metrics::retry();
        let error = spotreel_domain::chain(error);
        let (subject, sequence) = (&delivery.subject, delivery.sequence);
        if tries == TRIES_UNTIL_ERROR {
            tracing::error!(
                error,
                subject,
                sequence,
                tries,
                "publishing an event keeps failing; all later events wait"
            );
            health.set(log.publish_check(), Err(&error));
        } else {
            tracing::warn!(
                error,
                subject,
                sequence,
                tries,
                "publishing an event failed; retrying"
            );
        }
    }

    /// An ack that does not arrive costs a redelivery, which finds the event published.
    async fn ack(&self, delivery: &Delivery) {
        if let Err(error) = delivery.ack().await {
            tracing::warn!(%error, sequence = delivery.sequence, "ack failed; the event will be redelivered");
        }
    }

    async fn pause(&self, delay: &mut Duration, stopping: &CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(*delay) => {}
            () = stopping.cancelled() => {}
        }
        *delay = (*delay * 2).min(self.config.retry_longest);
    }
}

/// Work items leave the log once their task has ended, which may be before a notifier that was down has read them.
/// The event that came after one tells all that it said, but the time of a later round's.
fn queued_before(recorded: &Recorded) -> Option<Recorded> {
    let mut task = recorded.task.clone();
    match recorded.event {
        Event::Started => task.attempts_total -= task.attempts.pop().map_or(0, |_| 1),
        Event::Cancelled | Event::Expired => {}
        _ => return None,
    }
    if task.round == 1 {
        task.at = task.submitted_at;
    }
    (task.failures, task.lost_in_row, task.start) = (0, 0, 0);
    task.state = State::Queued { not_before: None };
    let (sequence, event) = (task.entry, Event::Queued);
    Some(Recorded {
        sequence,
        event,
        task,
        ..recorded.clone()
    })
}

fn count(entry: &Entry, said: Said) {
    let delay = ambient::now().duration_since(entry.stored_at());
    let outcome = match said {
        Said::Now => "published",
        Said::Before => "before",
    };
    metrics::said(
        entry.event(),
        outcome,
        Duration::try_from(delay).unwrap_or_default(),
    );
}
