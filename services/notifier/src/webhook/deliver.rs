//! One event on its way to one receiver, from its queue to the line in the log.

use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::events::EventStream;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Webhooks};
use spotreel_domain::webhook::{
    DeliveryAttempt, DeliveryRecord, DeliveryState, DeliveryVerdict, Recovery, RetrySchedule,
    SECRET_BYTES, SigningSecrets, WebhookSecret, WebhookUrl,
};
use spotreel_s3::{PresignError, Store};
use spotreel_webhook::Sender;

use crate::config::WebhooksConfig;

use super::event::PublicEvent;
use super::metrics;

/// After what is our own fault: S3's signer or NATS does not answer.
const OWN_FAULT_RETRY: Duration = Duration::from_secs(5);
/// Beyond the receiver's deadline: links, the log, the ack.
const LEASE_SLACK: Duration = Duration::from_secs(10);

/// What deliveries need.
pub struct Deliverer {
    pub nats: Client,
    pub webhooks: Webhooks,
    pub events: EventStream,
    pub sender: Sender,
    pub store: Store,
    pub link_expires: Duration,
    pub settings: WebhooksConfig,
}

/// Where an event goes.
#[derive(Clone, Copy, Debug)]
pub struct Receiver<'a> {
    /// In the log: an endpoint's id, or that of all callbacks.
    pub recipient: &'a str,
    pub target: &'a WebhookUrl,
    pub secrets: &'a SigningSecrets,
    pub schedule: &'a RetrySchedule,
    /// If the event comes from the queue of this recovery: what failed before its order, or waits in the queue of a former
    /// recovery, is tried anew.
    pub recovery: Option<Recovery>,
}

/// Why a try was not made, or not written down.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error("the log of deliveries cannot be reached")]
    Log(#[from] JetStreamError),
    #[error("the queue cannot be reached")]
    Queue(#[from] QueueError),
    #[error("the links of the event could not be signed")]
    Link(#[from] PresignError),
}

impl Deliverer {
    /// How long an event is leased to the notifier that delivers it.
    pub fn lease(&self) -> Duration {
        self.settings.deadline + LEASE_SLACK
    }

    /// Tries a delivery that is due, and acks it or puts it off. None: nothing was tried.
    pub async fn take(
        &self,
        delivery: &Delivery,
        event: PublicEvent,
        to: Receiver<'_>,
    ) -> Option<DeliveryAttempt> {
        match self.try_take(delivery, event, to).await {
            Ok(attempt) => attempt,
            Err(error) => {
                let error = spotreel_domain::chain(&error);
                let sequence = delivery.sequence;
                tracing::warn!(
                    error,
                    sequence,
                    recipient = to.recipient,
                    "webhook delivery interrupted; it will be repeated"
                );
                put_off(delivery, OWN_FAULT_RETRY).await;
                None
            }
        }
    }

    async fn try_take(
        &self,
        delivery: &Delivery,
        event: PublicEvent,
        to: Receiver<'_>,
    ) -> Result<Option<DeliveryAttempt>, DeliverError> {
        let (sequence, is_recovery) = (delivery.sequence, to.recovery.is_some());
        let is_later = |recovery: Recovery| recovery.until.is_some_and(|until| sequence > until);
        if to.recovery.is_some_and(is_later) {
            // The endpoint's own queue has it.
            delivery.ack().await?;
            return Ok(None);
        }
        let before = self.webhooks.delivery(to.recipient, sequence).await?;
        let before = before.filter(|before| {
            let is_left = match before.state {
                DeliveryState::Delivered => false,
                DeliveryState::Waiting { .. } => before.again,
                DeliveryState::Failed => true,
            };
            let is_before = |recovery: Recovery| before.last_at < recovery.ordered_at;
            !(is_left && to.recovery.is_some_and(is_before))
        });
        match before.as_ref().map(|before| before.state) {
            // Before a crash, by another notifier, or by an operator's order.
            Some(DeliveryState::Delivered | DeliveryState::Failed) => {
                delivery.ack().await?;
                return Ok(None);
            }
            // The other queue of the endpoint has it, too, and goes on with it.
            Some(DeliveryState::Waiting { .. })
                if before
                    .as_ref()
                    .is_some_and(|before| before.again != is_recovery) =>
            {
                delivery.ack().await?;
                return Ok(None);
            }
            Some(DeliveryState::Waiting { next_at }) if next_at > ambient::now() => {
                delivery.nak_for(until(next_at)).await?;
                return Ok(None);
            }
            Some(DeliveryState::Waiting { .. }) | None => {}
        }
        let (attempt, mut record) = self.send(sequence, before.as_ref(), event, to).await?;
        record.again = is_recovery;
        let logged = self
            .webhooks
            .log_delivery(to.recipient, sequence, &record)
            .await;
        if let Err(error) = logged {
            // The receiver has it: an ack without a line in the log is better than a second request.
            if record.state != DeliveryState::Delivered {
                return Err(error.into());
            }
            tracing::warn!(error = %spotreel_domain::chain(&error), sequence, recipient = to.recipient, "webhook delivery was not logged");
        }
        match record.state {
            DeliveryState::Waiting { next_at } => delivery.nak_for(until(next_at)).await?,
            DeliveryState::Delivered => {
                metrics::delivered(delay(delivery));
                delivery.ack().await?;
            }
            DeliveryState::Failed => {
                metrics::given_up();
                delivery.ack().await?;
            }
        }
        Ok(Some(attempt))
    }

    /// One request, and the line of the log that it makes.
    pub async fn send(
        &self,
        sequence: u64,
        before: Option<&DeliveryRecord>,
        event: PublicEvent,
        to: Receiver<'_>,
    ) -> Result<(DeliveryAttempt, DeliveryRecord), DeliverError> {
        let (id, kind) = (event.id.clone(), event.kind.clone());
        let body = event.body(&self.store, self.link_expires).await?;
        let sent = spotreel_webhook::SignedDelivery {
            target: to.target,
            id: &id,
            body: &body,
            secrets: to.secrets,
        };
        let attempt = self.sender.send(sent, ambient::now()).await;
        let verdict = attempt.verdict();
        metrics::attempt(verdict, attempt.took);
        let now = ambient::now();
        let random = ambient::random_u64();
        let none = RetrySchedule::new(Vec::new());
        // A callback's receiver that is gone is asked no more; an endpoint is disabled, and may be enabled again.
        let is_endpoint = to.recipient != spotreel_bus::webhooks::CALLBACKS;
        let schedule = match verdict == DeliveryVerdict::Gone && !is_endpoint {
            true => &none,
            false => to.schedule,
        };
        let record = DeliveryRecord::after(before, &id, &kind, &attempt, schedule, now, random);
        if verdict == DeliveryVerdict::Delivered {
            tracing::debug!(
                event = id,
                sequence,
                recipient = to.recipient,
                "webhook delivered"
            );
        } else {
            tracing::info!(
                event = id,
                sequence,
                recipient = to.recipient,
                host = to.target.host(),
                tries = record.tries,
                reason = record.reason,
                "webhook delivery failed"
            );
        }
        Ok((attempt, record))
    }
}

/// A secret that nobody knows.
pub fn draw_secret() -> WebhookSecret {
    let mut bytes = [0; SECRET_BYTES];
    for part in bytes.chunks_exact_mut(size_of::<u64>()) {
        part.copy_from_slice(&ambient::random_u64().to_le_bytes());
    }
    WebhookSecret::new(bytes)
}

/// Gives a delivery back for later. Where the server does not hear it, its lease ends by itself.
pub async fn put_off(delivery: &Delivery, delay: Duration) {
    if let Err(error) = delivery.nak_for(delay).await {
        tracing::debug!(%error, "nak failed; the event will be redelivered");
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(ambient::now())).unwrap_or_default()
}

/// Since the event was published.
fn delay(delivery: &Delivery) -> Duration {
    let stored = Timestamp::from_nanosecond(delivery.stored_nanos).unwrap_or(Timestamp::MAX);
    spotreel_domain::time::elapsed(stored, ambient::now())
}
