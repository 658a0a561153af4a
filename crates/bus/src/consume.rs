//! The loop of a program that reads a log through a durable consumer: pulls events, hands each to its handler, and acks it.
//!
//! What every delivery goes through is here and nowhere else: the writer's trace, events of a newer version, messages that
//! are not protobuf, the renewed lease, the delay before a retry. A program has a handler, and hears of [`Notice`]s.

mod troubles;

use std::convert::Infallible;
use std::time::Duration;

use async_nats::Client;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::append::ReadError;
use crate::names::{BATCHES, TASKS};
use crate::queue::{self, QueueError};
use crate::{Delivery, Queue, Recorded, RecordedBatch, trace};
use troubles::{HELD_AT_MOST, Troubles};

/// Number of renewals during one lease.
const RENEWALS_PER_LEASE: u32 = 4;
/// Delay after which an event of a newer version is delivered again; a newer program may then take it.
const HELD_FOR: Duration = Duration::from_secs(5);
/// Of what is handled at the same time: twice the largest message that the server takes.
const MAX_BYTES: usize = 16 << 20;

/// An event of one of the logs.
pub trait LogEvent: Sized {
    const STREAM: &'static str;

    fn read(delivery: &Delivery) -> Result<Self, ReadError>;
}

impl LogEvent for Recorded {
    const STREAM: &'static str = TASKS;

    fn read(delivery: &Delivery) -> Result<Self, ReadError> {
        delivery.recorded()
    }
}

impl LogEvent for RecordedBatch {
    const STREAM: &'static str = BATCHES;

    fn read(delivery: &Delivery) -> Result<Self, ReadError> {
        delivery.recorded_batch()
    }
}

/// What the handler of an event decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Nothing is left to do, now or later.
    Done,
    /// Deliver it again after this delay.
    Later(Duration),
}

/// Why an event could not be handled now. It is delivered again, and decided anew.
pub trait HandlerError: std::error::Error {
    /// Whether an event that a newer version wrote is in the way.
    fn is_newer_version(&self) -> bool {
        false
    }
}

/// What happened, for the health checks and metrics of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Whether the consumer works, or why not.
    Check(Result<(), String>),
    /// The handler failed at an event, which will be delivered again.
    Failed,
    /// An event of a newer version was handed back.
    Held,
    /// A message that is not protobuf was skipped.
    Unreadable,
}

#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// Made by `spotreel provision`, never here.
    pub consumer: &'static str,
    /// The program that reads.
    pub program: &'static str,
    /// Largest number of events that are handled at the same time.
    pub concurrent: usize,
    /// Maximum time that a pull waits for the next event. A stop ends it.
    pub pull_wait: Duration,
    /// Delay before a failed event, or a failed pull, is repeated: the first, then doubled up to the longest.
    pub retry_first: Duration,
    pub retry_longest: Duration,
    /// Failures in a row of one event until the check fails and a person is asked to look. Deliveries that its handler put
    /// off do not count.
    pub tries_until_error: u32,
}

pub struct Consumer {
    client: Client,
    spec: ConsumerSpec,
    stopping: CancellationToken,
    notice: Box<dyn Fn(Notice) + Send + Sync>,
    troubles: Troubles,
}

/// Where a loop pulls from.
struct Source {
    stream: &'static str,
    /// None before it was found, and after a pull that failed.
    queue: Option<Queue>,
    /// Failed pulls in a row.
    tries: i64,
    renew_after: Duration,
}

impl Consumer {
    pub fn new(
        client: &Client,
        spec: ConsumerSpec,
        stopping: &CancellationToken,
        notice: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Self {
        Self {
            client: client.clone(),
            troubles: Troubles::new(spec.tries_until_error),
            spec,
            stopping: stopping.clone(),
            notice: Box::new(notice),
        }
    }

    /// Handles events until told to stop; those in hand are finished, and what fails then is handed back at once.
    pub async fn run<E, H, F, R>(&self, handle: H)
    where
        E: LogEvent,
        H: Fn(E) -> F,
        F: Future<Output = Result<Handled, R>>,
        R: HandlerError,
    {
        let mut source = Source::new(E::STREAM);
        while let Some(batch) = self.next(&mut source).await {
            let taken = batch.iter().map(|delivery| {
                let span = tracing::info_span!("event", subject = delivery.subject);
                trace::adopt(&span, &delivery.headers);
                self.take(delivery, source.renew_after, &handle)
                    .instrument(span)
            });
            join_all(taken).await;
        }
    }

    /// As [`Self::run`], for a handler that takes all events that are there at once, in order of delivery, and gives the
    /// outcome of each in the same order. It adopts their traces itself.
    pub async fn run_together<E, H, F, R>(&self, handle: H)
    where
        E: LogEvent,
        H: Fn(Vec<E>) -> F,
        F: Future<Output = Vec<Result<Handled, R>>>,
        R: HandlerError,
    {
        let mut source = Source::new(E::STREAM);
        while let Some(batch) = self.next(&mut source).await {
            let (mut events, mut read, mut handled) = (Vec::new(), Vec::new(), Vec::new());
            for delivery in &batch {
                match self.read::<E>(delivery) {
                    Ok(event) => {
                        events.push(event);
                        read.push(delivery);
                    }
                    Err(outcome) => handled.push((delivery, outcome)),
                }
            }
            if !events.is_empty() {
                let outcomes = renewed(&read, source.renew_after, handle(events)).await;
                let outcomes = read.into_iter().zip(outcomes);
                handled.extend(outcomes.map(|(delivery, outcome)| {
                    let outcome = self.judge(delivery, outcome);
                    (delivery, outcome)
                }));
            }
            self.settle(&handled).await;
        }
    }

    /// The next deliveries, at least one; none once it is told to stop.
    async fn next(&self, source: &mut Source) -> Option<Vec<Delivery>> {
        while !self.stopping.is_cancelled() {
            let error = match self.try_next(source).await {
                Ok(batch) if batch.is_empty() => continue,
                Ok(batch) => return Some(batch),
                Err(error) => error,
            };
            let (consumer, stream) = (self.spec.consumer, source.stream);
            tracing::warn!(%error, consumer, stream, "pulling events failed; retrying");
            (self.notice)(Notice::Check(Err(error.to_string())));
            source.tries += 1;
            tokio::select! {
                () = tokio::time::sleep(self.delay(source.tries)) => {}
                () = self.stopping.cancelled() => {}
            }
        }
        None
    }

    async fn try_next(&self, source: &mut Source) -> Result<Vec<Delivery>, QueueError> {
        let queue = match source.queue.take() {
            Some(queue) => queue,
            None => Queue::open(&self.client, source.stream, self.spec.consumer).await?,
        };
        source.renew_after = queue.ack_wait() / RENEWALS_PER_LEASE;
        let mut batch = queue.pull_within(self.spec.concurrent, MAX_BYTES).await?;
        source.tries = 0;
        (self.notice)(Notice::Check(self.troubles.health()));
        if batch.is_empty() {
            let next = queue.pull_until(self.spec.pull_wait, &self.stopping);
            batch.extend(next.await?);
        }
        source.queue = Some(queue);
        Ok(batch)
    }

    async fn take<E, H, F, R>(&self, delivery: &Delivery, renew_after: Duration, handle: &H)
    where
        E: LogEvent,
        H: Fn(E) -> F,
        F: Future<Output = Result<Handled, R>>,
        R: HandlerError,
    {
        let handled = match self.read::<E>(delivery) {
            Ok(event) => {
                let handled = renewed(&[delivery], renew_after, handle(event)).await;
                self.judge(delivery, handled)
            }
            Err(handled) => handled,
        };
        self.settle(&[(delivery, handled)]).await;
    }

    async fn settle(&self, handled: &[(&Delivery, Handled)]) {
        let (mut done, mut later) = (Vec::new(), Vec::new());
        for (delivery, handled) in handled {
            match handled {
                Handled::Done => done.push(*delivery),
                Handled::Later(delay) => later.push(delivery.nak(*delay)),
            }
        }
        let (acked, handed_back) = tokio::join!(queue::ack_all(&done), join_all(later));
        for error in handed_back
            .into_iter()
            .chain([acked])
            .filter_map(Result::err)
        {
            let consumer = self.spec.consumer;
            tracing::warn!(%error, consumer, "ack failed; the event will be redelivered");
        }
    }

    /// The event, or what becomes of a delivery that this version cannot read.
    fn read<E: LogEvent>(&self, delivery: &Delivery) -> Result<E, Handled> {
        E::read(delivery).map_err(|error| {
            let newer = error.is_newer_version();
            let error = spotreel_domain::chain(&error);
            if newer {
                return self.hold(delivery, &error);
            }
            let (consumer, subject) = (self.spec.consumer, &delivery.subject);
            let sequence = delivery.sequence;
            tracing::error!(
                error,
                consumer,
                subject,
                sequence,
                "event is not protobuf; skipped"
            );
            (self.notice)(Notice::Unreadable);
            Handled::Done
        })
    }

    /// What becomes of a delivery after its handler.
    fn judge<R: HandlerError>(&self, delivery: &Delivery, handled: Result<Handled, R>) -> Handled {
        let error = match handled {
            Ok(handled) => {
                self.troubles.recover(delivery.sequence);
                return handled;
            }
            Err(error) => error,
        };
        let newer = error.is_newer_version();
        let error = spotreel_domain::chain(&error);
        match newer {
            true => self.hold(delivery, &error),
            false => self.fail(delivery, &error),
        }
    }

    fn fail(&self, delivery: &Delivery, error: &str) -> Handled {
        let (consumer, subject) = (self.spec.consumer, &delivery.subject);
        let delay = self.delay(delivery.delivered);
        // Without a failure for longer than the next try takes, it was handled.
        let at_most = delay + HELD_AT_MOST;
        let tries = self.troubles.count(delivery.sequence, at_most);
        let most = self.spec.tries_until_error;
        if tries == Some(most) {
            tracing::error!(
                error,
                consumer,
                subject,
                tries,
                "handling an event keeps failing"
            );
        } else {
            let delivered = delivery.delivered;
            tracing::warn!(
                error,
                consumer,
                subject,
                delivered,
                "handling an event failed; retrying"
            );
        }
        (self.notice)(Notice::Failed);
        if let Some(tries) = tries.filter(|tries| *tries >= most) {
            let reason = format!("{subject} was tried {tries} times: {error}");
            self.block(reason, at_most);
        }
        match self.stopping.is_cancelled() {
            true => Handled::Later(Duration::ZERO),
            false => Handled::Later(delay),
        }
    }

    /// The check fails while an event of a newer version waits: only a newer program knows what it asks for.
    fn hold(&self, delivery: &Delivery, error: &str) -> Handled {
        let ConsumerSpec {
            consumer, program, ..
        } = self.spec;
        let (subject, sequence) = (&delivery.subject, delivery.sequence);
        if delivery.delivered == 1 {
            tracing::error!(
                error,
                consumer,
                subject,
                sequence,
                "event of a newer version; it waits until {program} is upgraded"
            );
        }
        (self.notice)(Notice::Held);
        let reason = format!(
            "{subject} at {sequence} was written by a newer version: upgrade {program} ({error})"
        );
        self.block(reason, HELD_AT_MOST);
        Handled::Later(HELD_FOR)
    }

    fn block(&self, reason: String, at_most: Duration) {
        self.troubles.block(reason.clone(), at_most);
        (self.notice)(Notice::Check(Err(reason)));
    }

    /// The delay after the `tries`th failure in a row.
    fn delay(&self, tries: i64) -> Duration {
        // Doubled 20 times, any first delay is longer than any longest.
        let doubled = 1_u32 << (tries - 1).clamp(0, 20);
        let delay = self.spec.retry_first.saturating_mul(doubled);
        delay.min(self.spec.retry_longest)
    }
}

impl Source {
    fn new(stream: &'static str) -> Self {
        Self {
            stream,
            queue: None,
            tries: 0,
            renew_after: Duration::MAX,
        }
    }
}

/// Keeps the leases while the work goes on.
async fn renewed<T>(deliveries: &[&Delivery], every: Duration, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = renew(deliveries, every) => match never {},
    }
}

async fn renew(deliveries: &[&Delivery], every: Duration) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        for delivery in deliveries {
            delivery.in_progress().await;
        }
    }
}
