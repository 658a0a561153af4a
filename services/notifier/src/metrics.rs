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
        "Handled log events, by event and by whether they were already published"
    );
    describe_counter!(RETRIES, "Failed attempts to publish an event");
    describe_counter!(
        UNREADABLE,
        "Messages of the log that are not protobuf and were skipped"
    );
    describe_counter!(
        HELD,
        "Deliveries of events of a newer version, which were handed back"
    );
    describe_histogram!(
        DELAY,
        "Time from an event's write to the log to its write to EVENTS"
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
