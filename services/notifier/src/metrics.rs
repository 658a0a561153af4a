//! What notifier counts.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

const EVENTS: &str = "spotreel_notifier_events_total";
const RETRIES: &str = "spotreel_notifier_retries_total";
const UNREADABLE: &str = "spotreel_notifier_unreadable_total";
const HELD: &str = "spotreel_notifier_held_total";
const DELAY: &str = "spotreel_notifier_delay_seconds";

pub fn describe() {
    describe_counter!(
        EVENTS,
        "Log events handled, by event and whether they had been published before"
    );
    describe_counter!(RETRIES, "Tries to publish an event that failed");
    describe_counter!(
        UNREADABLE,
        "Messages of the log that are no protobuf and were passed over"
    );
    describe_counter!(
        HELD,
        "Deliveries of events that a newer version wrote, which were handed back"
    );
    describe_histogram!(
        DELAY,
        "From an event's place in the log to its place in EVENTS"
    );
}

pub fn said(event: &'static str, outcome: &'static str, delay: Duration) {
    counter!(EVENTS, "event" => event, "outcome" => outcome).increment(1);
    histogram!(DELAY).record(delay.as_secs_f64());
}

pub fn retry() {
    counter!(RETRIES).increment(1);
}

pub fn held() {
    counter!(HELD).increment(1);
}

pub fn unreadable() {
    counter!(UNREADABLE).increment(1);
}
