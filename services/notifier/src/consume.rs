//! Reads the two logs: hands each event to [`act`](crate::act), in order, and acks it once it is published.

use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::jetstream::ApiError;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{BATCHES, CONSUMER_NOTIFIER, TASKS};
use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Queue, Recorded, RecordedBatch, trace};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::act::{Notifier, Said};
use crate::error::NotifyError;
use crate::metrics;

/// Failures in a row of one event until a person is asked to look: with the default delays half a minute, longer than
/// a restart of the server.
const TRIES_UNTIL_ERROR: u32 = 10;

/// A log that is told to clients. Each is told in its own order, and neither waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Tasks,
    Batches,
}

impl Log {
    const ALL: [Self; 2] = [Self::Tasks, Self::Batches];

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

    fn read(self, delivery: &Delivery) -> Result<LoggedEvent, ReadError> {
        Ok(match self {
            Self::Tasks => LoggedEvent::Task(Box::new(delivery.recorded()?)),
            Self::Batches => LoggedEvent::Batch(Box::new(delivery.recorded_batch()?)),
        })
    }
}

/// An event of either log.
#[derive(Clone, Debug)]
enum LoggedEvent {
    Task(Box<Recorded>),
    Batch(Box<RecordedBatch>),
}

impl LoggedEvent {
    fn name(&self) -> &'static str {
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

impl Notifier {
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
            let error = match Queue::open(&self.nats, log.stream(), CONSUMER_NOTIFIER).await {
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
    ) -> Result<(), QueueError> {
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
        let event = match log.read(delivery) {
            Ok(event) => {
                health.set(log.version_check(), Ok::<(), &str>(()));
                event
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
            match self.publish_event(&event).await {
                Ok(said) => {
                    health.set(log.publish_check(), Ok::<(), &str>(()));
                    count(&event, said);
                    return self.ack(delivery).await;
                }
                // Another notifier was there in between: what it wrote decides.
                Err(NotifyError::Store(ApiError::Conflict)) => {
                    tracing::debug!(
                        id = event.id(),
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

    async fn publish_event(&self, event: &LoggedEvent) -> Result<Said, NotifyError> {
        match event {
            LoggedEvent::Task(recorded) => self.publish(recorded).await,
            LoggedEvent::Batch(recorded) => self.publish_batch(recorded).await,
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

fn count(event: &LoggedEvent, said: Said) {
    let delay = ambient::now().duration_since(event.stored_at());
    let outcome = match said {
        Said::Now => "published",
        Said::Before => "before",
    };
    metrics::said(
        event.name(),
        outcome,
        Duration::try_from(delay).unwrap_or_default(),
    );
}
