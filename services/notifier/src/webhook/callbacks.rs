//! The end of each task that has a `callback_url`, to that URL.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::names::{CONSUMER_CALLBACKS, EVENTS};
use spotreel_bus::queue::QueueError;
use spotreel_bus::webhooks::CALLBACKS;
use spotreel_bus::{Delivery, Queue};
use spotreel_domain::Owner;
use spotreel_domain::webhook::{DeliveryVerdict, Gate, SigningSecrets, WebhookUrl};

use super::deliver::{Deliverer, Receiver, draw_secret, put_off};
use super::queue::{PULL_RETRY, PULL_WAIT, ack, readable, together};

/// In `/readyz`.
pub const CHECK: &str = "consumer callbacks of EVENTS";
/// Hosts whose failures are remembered; beyond it those that have none are forgotten.
const MAX_GATES: usize = 10_000;
/// Deliveries that wait for one host come again spread over this time, in milliseconds.
const SPREAD_MS: u64 = 2_000;
/// After the secrets of an owner could not be read.
const OWN_FAULT_RETRY: Duration = Duration::from_secs(5);

/// A gate for each host: tasks of anybody may name any.
type Gates = Mutex<HashMap<String, Gate>>;

/// Delivers until told to stop.
pub async fn run(deliverer: Arc<Deliverer>, ctx: Context) {
    let (gates, stopping) = (Gates::default(), &ctx.stopping);
    while !stopping.is_cancelled() {
        if let Err(error) = drain(&deliverer, &gates, &ctx).await {
            tracing::warn!(%error, "pulling callbacks failed; retrying");
            ctx.health.set(CHECK, Err(&error));
            let pause = tokio::time::sleep(PULL_RETRY);
            stopping.run_until_cancelled(pause).await;
        }
    }
}

async fn drain(deliverer: &Deliverer, gates: &Gates, ctx: &Context) -> Result<(), QueueError> {
    let queue = &Queue::open(&deliverer.nats, EVENTS, CONSUMER_CALLBACKS).await?;
    ctx.health.set(CHECK, Ok::<(), &str>(()));
    let loops = deliverer.settings.callbacks_at_once;
    together(loops, &ctx.stopping, |enough| async move {
        while !enough.is_cancelled() {
            if let Some(delivery) = queue.pull_until(PULL_WAIT, &enough).await? {
                deliver(deliverer, gates, &delivery).await;
            }
        }
        Ok::<(), QueueError>(())
    })
    .await
}

async fn deliver(deliverer: &Deliverer, gates: &Gates, delivery: &Delivery) {
    let Some(event) = readable(delivery).await else {
        return;
    };
    let Some(url) = &event.callback_url else {
        return ack(delivery).await;
    };
    // Intake has checked it.
    let Ok(target) = WebhookUrl::parse(url) else {
        tracing::error!(
            event = event.id,
            "callback_url of a task is not a URL; it is skipped"
        );
        return ack(delivery).await;
    };
    let host = target.host();
    if let Err(wait) = enter(deliverer, gates, &host) {
        let spread = Duration::from_millis(ambient::random_u64() % SPREAD_MS);
        return put_off(delivery, wait + spread).await;
    }
    let owner = event
        .owner
        .as_deref()
        .and_then(|owner| Owner::parse(owner).ok());
    let new = SigningSecrets::new(draw_secret());
    let secrets = deliverer
        .webhooks
        .callback_secrets(owner.as_ref(), new)
        .await;
    let attempt = match secrets {
        Ok(secrets) => {
            let to = Receiver {
                recipient: CALLBACKS,
                target: &target,
                secrets: &secrets,
                schedule: &deliverer.settings.retries,
                recovery: None,
            };
            deliverer.take(delivery, event, to).await
        }
        Err(error) => {
            tracing::warn!(error = %spotreel_domain::chain(&error), "secrets of callbacks cannot be read; retrying");
            put_off(delivery, OWN_FAULT_RETRY).await;
            None
        }
    };
    let mut gates = gates.lock();
    let gate = gates.entry(host).or_default();
    match attempt.as_ref().map(|attempt| (attempt.verdict(), attempt)) {
        None => gate.leave(),
        Some((DeliveryVerdict::Delivered | DeliveryVerdict::Gone, _)) => gate.delivered(),
        Some((verdict, attempt)) => {
            let throttled = verdict == DeliveryVerdict::Throttled;
            let pause = attempt.retry_after.filter(|_| throttled);
            gate.failed(throttled, pause, ambient::now());
        }
    }
}

fn enter(deliverer: &Deliverer, gates: &Gates, host: &str) -> Result<(), Duration> {
    let (mut gates, now) = (gates.lock(), ambient::now());
    if gates.len() >= MAX_GATES {
        gates.retain(|_, gate| !gate.is_idle(now));
    }
    let gate = gates.entry(host.to_owned()).or_default();
    gate.enter(deliverer.settings.at_once, now)
}
