//! The queue of one endpoint, and what is sent again to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use spotreel_bootstrap::ambient;
use spotreel_bus::names::EVENTS;
use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Queue};
use spotreel_domain::webhook::{DeliveryVerdict, Gate, Webhook};
use tokio_util::sync::CancellationToken;

use super::deliver::{Deliverer, Receiver, put_off};
use super::event::PublicEvent;
use super::health;

/// A pull without a result is made anew after this time.
pub const PULL_WAIT: Duration = Duration::from_secs(10);
/// After the queue could not be read.
pub const PULL_RETRY: Duration = Duration::from_secs(1);
/// Between looks at a closed gate, which another loop may have opened.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Before an event is looked at again that another queue of its endpoint has in hand.
const IN_HAND_WAIT: Duration = Duration::from_secs(1);

/// What the queues of one endpoint share: its own, and that of a recovery.
#[derive(Debug, Default)]
pub struct Shared {
    gate: Mutex<Gate>,
    /// The events at work, so that none is sent by two queues at the same time.
    in_hand: Mutex<HashSet<u64>>,
}

/// Deliveries from one consumer to one endpoint, by a few loops that share it.
pub struct EndpointQueue {
    pub deliverer: Arc<Deliverer>,
    pub consumer: String,
    /// As it was read last: a change takes effect with the next delivery.
    pub webhook: Mutex<Arc<Webhook>>,
    pub shared: Arc<Shared>,
    pub is_recovery: bool,
    /// Why the consumer cannot be read now.
    pub failure: Mutex<Option<String>>,
    pub stopping: CancellationToken,
}

impl EndpointQueue {
    /// Delivers until told to stop.
    pub async fn run(self: Arc<Self>) {
        while !self.stopping.is_cancelled() {
            if let Err(error) = self.drain().await {
                *self.failure.lock() = Some(error.to_string());
                tracing::warn!(%error, consumer = self.consumer, "pulling deliveries of a webhook failed; retrying");
                self.sleep(PULL_RETRY).await;
            }
        }
    }

    async fn drain(&self) -> Result<(), QueueError> {
        let queue = Queue::open(&self.deliverer.nats, EVENTS, &self.consumer).await?;
        *self.failure.lock() = None;
        let loops = self.deliverer.settings.at_once;
        together(loops, &self.stopping, |enough| {
            self.drain_one(&queue, enough)
        })
        .await
    }

    async fn drain_one(&self, queue: &Queue, enough: CancellationToken) -> Result<(), QueueError> {
        while self.is_open(&enough).await {
            if let Some(delivery) = queue.pull_until(PULL_WAIT, &enough).await? {
                self.deliver(&delivery).await;
            }
        }
        Ok(())
    }

    /// Waits until a request may be made. The place is taken later: a pull without a result would keep it from the other queue.
    /// False: told to stop.
    async fn is_open(&self, enough: &CancellationToken) -> bool {
        while !enough.is_cancelled() {
            let most = self.deliverer.settings.at_once;
            let look = self.shared.gate.lock().look(most, ambient::now());
            match look {
                Ok(()) => return true,
                Err(wait) => self.sleep(wait.min(LONGEST_SLEEP)).await,
            }
        }
        false
    }

    async fn deliver(&self, delivery: &Delivery) {
        if !self.shared.in_hand.lock().insert(delivery.sequence) {
            return put_off(delivery, IN_HAND_WAIT).await;
        }
        self.deliver_alone(delivery).await;
        self.shared.in_hand.lock().remove(&delivery.sequence);
    }

    async fn deliver_alone(&self, delivery: &Delivery) {
        let webhook = Arc::clone(&self.webhook.lock());
        let Some(event) = readable(delivery).await else {
            return;
        };
        let is_theirs =
            |owner: &spotreel_domain::Owner| event.owner.as_deref() == Some(owner.as_str());
        if webhook
            .owner
            .as_ref()
            .is_some_and(|owner| !is_theirs(owner))
        {
            return ack(delivery).await;
        }
        let most = self.deliverer.settings.at_once;
        let entered = self.shared.gate.lock().enter(most, ambient::now());
        if let Err(wait) = entered {
            return put_off(delivery, wait).await;
        }
        let to = Receiver {
            recipient: webhook.id.as_str(),
            target: &webhook.url,
            secrets: &webhook.secrets,
            schedule: &self.deliverer.settings.retries,
            recovery: webhook.recovery.filter(|_| self.is_recovery),
        };
        let Some(attempt) = self.deliverer.take(delivery, event, to).await else {
            return self.shared.gate.lock().leave();
        };
        let verdict = attempt.verdict();
        match verdict {
            DeliveryVerdict::Delivered => self.shared.gate.lock().delivered(),
            _ => {
                let throttled = verdict == DeliveryVerdict::Throttled;
                let pause = attempt.retry_after.filter(|_| throttled);
                self.shared
                    .gate
                    .lock()
                    .failed(throttled, pause, ambient::now());
            }
        }
        health::note(&self.deliverer, &webhook, &attempt).await;
        if verdict == DeliveryVerdict::Gone {
            // The endpoint is disabled, and this queue ends with the next look at the endpoints.
            self.stopping.cancel();
        }
    }

    async fn sleep(&self, time: Duration) {
        let sleep = tokio::time::sleep(time);
        self.stopping.run_until_cancelled(sleep).await;
    }
}

/// Runs loops that share a queue until all of them have ended: when told to stop, or after the failure of one. Each finishes
/// what it has in hand.
pub async fn together<F>(
    loops: usize,
    stopping: &CancellationToken,
    each: impl Fn(CancellationToken) -> F,
) -> Result<(), QueueError>
where
    F: Future<Output = Result<(), QueueError>>,
{
    let enough = stopping.child_token();
    let loops = (0..loops).map(|_| async {
        let ended = each(enough.clone()).await;
        enough.cancel();
        ended
    });
    join_all(loops).await.into_iter().collect()
}

/// The event of a delivery. What is no event is acked: nobody can send it.
pub async fn readable(delivery: &Delivery) -> Option<PublicEvent> {
    let event = PublicEvent::read(&delivery.payload);
    if event.is_none() {
        let (subject, sequence) = (&delivery.subject, delivery.sequence);
        tracing::error!(
            subject,
            sequence,
            "public event is not a CloudEvent; no webhook receives it"
        );
        ack(delivery).await;
    }
    event
}

pub async fn ack(delivery: &Delivery) {
    if let Err(error) = delivery.ack().await {
        tracing::warn!(%error, sequence = delivery.sequence, "ack failed; the event will be redelivered");
    }
}
