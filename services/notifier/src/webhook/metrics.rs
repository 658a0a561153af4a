//! What is counted of webhooks.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use spotreel_bus::webhooks::Backlog;
use spotreel_domain::webhook::{DeliveryVerdict, Webhook};

spotreel_bootstrap::metrics! {
    Counter ATTEMPTS = "spotreel_notifier_webhook_attempts_total", Count,
        "Requests to receivers of webhooks and callbacks, by what came of them";
    Histogram ATTEMPT = "spotreel_notifier_webhook_attempt_seconds", Seconds,
        "Time until a receiver of a webhook or callback answered";
    Histogram DELAY = "spotreel_notifier_webhook_delay_seconds", Seconds,
        "Time from an event's write to EVENTS to its delivery to a receiver";
    Counter GIVEN_UP = "spotreel_notifier_webhook_given_up_total", Count,
        "Deliveries that failed in each of their tries";
    Gauge WEBHOOKS = "spotreel_notifier_webhooks", Count,
        "Endpoints of webhooks, by state";
    Gauge PENDING = "spotreel_notifier_webhook_pending", Count,
        "Events that were not yet tried for an endpoint of a webhook, or for the callbacks of tasks";
    Gauge ACK_PENDING = "spotreel_notifier_webhook_ack_pending", Count,
        "Events that are at work, or wait for another try, for an endpoint or for callbacks";
}

pub fn attempt(verdict: DeliveryVerdict, took: Duration) {
    let outcome = match verdict {
        DeliveryVerdict::Delivered => "delivered",
        DeliveryVerdict::Failed => "failed",
        DeliveryVerdict::Throttled => "throttled",
        DeliveryVerdict::Gone => "gone",
    };
    counter!(ATTEMPTS, "outcome" => outcome).increment(1);
    histogram!(ATTEMPT).record(took.as_secs_f64());
}

pub fn delivered(delay: Duration) {
    histogram!(DELAY).record(delay.as_secs_f64());
}

pub fn given_up() {
    counter!(GIVEN_UP).increment(1);
}

/// Of an endpoint, by its id, or of all callbacks.
pub fn backlog(webhook: &str, backlog: Backlog) {
    gauge!(PENDING, "webhook" => webhook.to_owned()).set(backlog.waiting as f64);
    gauge!(ACK_PENDING, "webhook" => webhook.to_owned()).set(backlog.open as f64);
}

pub fn endpoints(webhooks: &[Webhook]) {
    let count = |state: &'static str, is: fn(&Webhook) -> bool| {
        let count = webhooks.iter().filter(|webhook| is(webhook)).count();
        gauge!(WEBHOOKS, "state" => state).set(count as f64);
    };
    count("disabled", |webhook| webhook.disabled.is_some());
    count("failing", |webhook| {
        webhook.disabled.is_none() && webhook.failing.is_some()
    });
    count("active", |webhook| {
        webhook.disabled.is_none() && webhook.failing.is_none()
    });
}
