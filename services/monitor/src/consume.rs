//! Reads the log through a durable consumer: pulls events, hands each to the part of monitor that handles it, and acks it.

use std::convert::Infallible;
use std::time::Duration;

use async_nats::Client;
use futures::future::join_all;
use parking_lot::Mutex;
use spotreel_bootstrap::{Context, Health};
use spotreel_bus::names::TASKS;
use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Queue, Recorded};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;
use crate::error::HandleError;
use crate::metrics;

/// Number of renewals during one lease.
const RENEWALS_PER_LEASE: u32 = 4;

/// Delay after which an event of a newer version is delivered again; a newer monitor may then take it.
const HELD_FOR: Duration = Duration::from_secs(5);
/// Time without a redelivery after which a newer monitor must have handled the event.
const HELD_AT_MOST: Duration = Duration::from_secs(20);

/// What the handler of an event decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Nothing is left to do, now or later.
    Done,
    /// Deliver it again after this delay.
    Later(Duration),
}

pub(crate) struct Consumer {
    client: Client,
    consumer: &'static str,
    check: String,
    concurrent: usize,
    config: ConsumerConfig,
    health: Health,
    stopping: CancellationToken,
    /// The last event of a newer version that was handed back, and when.
    held: Mutex<Option<(String, Instant)>>,
}

impl Consumer {
    /// Not ready until the consumer has been found; it is never made here.
    pub fn new(
        client: &Client,
        consumer: &'static str,
        concurrent: usize,
        config: &ConsumerConfig,
        ctx: &Context,
    ) -> Self {
        let check = format!("consumer {consumer}");
        ctx.health.expect(&check);
        Self {
            client: client.clone(),
            consumer,
            check,
            concurrent,
            config: config.clone(),
            health: ctx.health.clone(),
            stopping: ctx.stopping.clone(),
            held: Mutex::new(None),
        }
    }

    /// Handles events until told to stop; those in hand are finished.
    pub async fn run<H, F>(&self, handle: H)
    where
        H: Fn(Recorded) -> F,
        F: Future<Output = Result<Handled, HandleError>>,
    {
        while !self.stopping.is_cancelled() {
            let error = match Queue::open(&self.client, TASKS, self.consumer).await {
                Ok(queue) => match self.drain(&queue, &handle).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, consumer = self.consumer, "pulling events failed; retrying");
            self.health.set(&self.check, Err(error));
            tokio::select! {
                () = tokio::time::sleep(self.config.retry_after) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    async fn drain<H, F>(&self, queue: &Queue, handle: &H) -> Result<(), QueueError>
    where
        H: Fn(Recorded) -> F,
        F: Future<Output = Result<Handled, HandleError>>,
    {
        while !self.stopping.is_cancelled() {
            let mut batch = queue.pull_ready(self.concurrent).await?;
            self.health.set(&self.check, self.held());
            if batch.is_empty() {
                batch.extend(queue.pull(self.config.pull_wait).await?);
            }
            join_all(
                batch
                    .iter()
                    .map(|delivery| self.handle(delivery, queue.ack_wait(), handle)),
            )
            .await;
        }
        Ok(())
    }

    async fn handle<H, F>(&self, delivery: &Delivery, ack_wait: Duration, handle: &H)
    where
        H: Fn(Recorded) -> F,
        F: Future<Output = Result<Handled, HandleError>>,
    {
        let handled = match delivery.recorded() {
            Ok(recorded) => tokio::select! {
                handled = handle(recorded) => handled,
                never = renew(delivery, ack_wait / RENEWALS_PER_LEASE) => match never {},
            },
            Err(error) if error.is_newer_version() => Err(error.into()),
            Err(error) => {
                let error = spotreel_domain::chain(&error);
                let (consumer, subject, sequence) =
                    (self.consumer, &delivery.subject, delivery.sequence);
                tracing::error!(
                    error,
                    consumer,
                    subject,
                    sequence,
                    "event is not protobuf; skipped"
                );
                metrics::unreadable(self.consumer);
                Ok(Handled::Done)
            }
        };
        let said = match handled {
            Ok(Handled::Done) => delivery.ack().await,
            Ok(Handled::Later(delay)) => delivery.nak(delay).await,
            Err(error) if error.is_newer_version() => {
                self.hold(delivery, &error);
                delivery.nak(HELD_FOR).await
            }
            Err(error) => {
                let error = spotreel_domain::chain(&error);
                tracing::warn!(
                    error,
                    consumer = self.consumer,
                    subject = delivery.subject,
                    "handling an event failed; retrying"
                );
                metrics::retry(self.consumer);
                delivery.nak(self.config.retry_after).await
            }
        };
        if let Err(error) = said {
            tracing::warn!(%error, consumer = self.consumer, sequence = delivery.sequence, "ack failed; the event will be redelivered");
        }
    }
}

impl Consumer {
    /// Not ready while an event of a newer version waits: only a newer monitor knows what it asks for.
    fn hold(&self, delivery: &Delivery, error: &HandleError) {
        let error = spotreel_domain::chain(error);
        let (consumer, subject, sequence) = (self.consumer, &delivery.subject, delivery.sequence);
        if delivery.delivered == 1 {
            tracing::error!(
                error,
                consumer,
                subject,
                sequence,
                "event of a newer version; it waits until monitor is upgraded"
            );
        }
        metrics::held(consumer);
        let reason = format!(
            "{subject} at {sequence} was written by a newer version: upgrade monitor ({error})"
        );
        let mut held = self.held.lock();
        *held = Some((reason.clone(), Instant::now()));
        self.health.set(&self.check, Err(reason));
    }

    fn held(&self) -> Result<(), String> {
        let held = self.held.lock();
        match &*held {
            Some((reason, at)) if at.elapsed() < HELD_AT_MOST => Err(reason.clone()),
            _ => Ok(()),
        }
    }
}

/// Keeps the lease while the event is worked on.
async fn renew(delivery: &Delivery, every: Duration) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        delivery.in_progress().await;
    }
}
