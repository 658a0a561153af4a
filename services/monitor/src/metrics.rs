//! What monitor counts and measures.

use jiff::Timestamp;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use spotreel_domain::{Lane, Model, Priority};

const SWEPT: &str = "spotreel_monitor_swept_total";
const REMOVED: &str = "spotreel_monitor_removed_events_total";
const OBJECTS: &str = "spotreel_monitor_removed_objects_total";
const EXPIRED: &str = "spotreel_monitor_expired_total";
const RESTORED: &str = "spotreel_monitor_restored_total";
const RETRIES: &str = "spotreel_monitor_retries_total";
const UNREADABLE: &str = "spotreel_monitor_unreadable_total";
const HELD: &str = "spotreel_monitor_held_total";
const MARK: &str = "spotreel_monitor_sweeper_mark_timestamp_seconds";
const PENDING: &str = "spotreel_consumer_pending";
const ACK_PENDING: &str = "spotreel_consumer_ack_pending";
const QUEUE: &str = "spotreel_queue_length";
const LOG_BYTES: &str = "spotreel_log_bytes";
const LOG_MAX: &str = "spotreel_log_max_bytes";
const DISK_FREE: &str = "spotreel_store_disk_free_bytes";
const DISK_SIZE: &str = "spotreel_store_disk_bytes";
const COPY_BEHIND: &str = "spotreel_monitor_events_copy_behind";

pub fn describe() {
    describe_counter!(SWEPT, "Work items of ended rounds deleted from the log");
    describe_counter!(REMOVED, "Events deleted from the log");
    describe_counter!(
        OBJECTS,
        "Checkpoints and unnamed videos deleted from the store"
    );
    describe_counter!(EXPIRED, "Tasks ended at their deadline");
    describe_counter!(
        RESTORED,
        "Unfinished tasks queued again because their work item was missing"
    );
    describe_counter!(
        RETRIES,
        "Events whose handling failed and was repeated, by consumer"
    );
    describe_counter!(
        UNREADABLE,
        "Messages of the log that are not protobuf and were skipped, by consumer"
    );
    describe_counter!(
        HELD,
        "Deliveries of events of a newer version, which were handed back, by consumer"
    );
    describe_gauge!(
        MARK,
        "Unix time of the last pass that found no obsolete work item"
    );
    describe_gauge!(
        PENDING,
        "Events that were not yet delivered to a consumer of the log"
    );
    describe_gauge!(
        ACK_PENDING,
        "Events that were delivered to a consumer of the log and are not acked"
    );
    describe_gauge!(
        QUEUE,
        "Queued and started tasks, by model, priority and lane"
    );
    describe_gauge!(LOG_BYTES, "Bytes of the task log");
    describe_gauge!(
        COPY_BEHIND,
        "Events that the clients' copy of EVENTS does not have yet"
    );
    describe_gauge!(LOG_MAX, "Maximum bytes of the task log");
    describe_gauge!(DISK_FREE, "Free bytes of the disk under the NATS server");
    describe_gauge!(DISK_SIZE, "Bytes of the disk under the NATS server");
}

pub fn copy_behind(events: u64) {
    gauge!(COPY_BEHIND).set(events as f64);
}

pub fn swept() {
    counter!(SWEPT).increment(1);
}

pub fn removed() {
    counter!(REMOVED).increment(1);
}

pub fn object_removed() {
    counter!(OBJECTS).increment(1);
}

pub fn expired() {
    counter!(EXPIRED).increment(1);
}

pub fn restored() {
    counter!(RESTORED).increment(1);
}

pub fn retry(consumer: &'static str) {
    counter!(RETRIES, "consumer" => consumer).increment(1);
}

pub fn held(consumer: &'static str) {
    counter!(HELD, "consumer" => consumer).increment(1);
}

pub fn unreadable(consumer: &'static str) {
    counter!(UNREADABLE, "consumer" => consumer).increment(1);
}

pub fn marked(at: Timestamp) {
    gauge!(MARK).set(at.as_second() as f64);
}

pub fn lag(consumer: &'static str, pending: u64, ack_pending: u64) {
    gauge!(PENDING, "consumer" => consumer).set(pending as f64);
    gauge!(ACK_PENDING, "consumer" => consumer).set(ack_pending as f64);
}

pub fn queue(model: Model, lane: Lane, length: u64) {
    let priority = match lane.priority {
        Priority::High => "high",
        Priority::Normal => "normal",
    };
    let name = match lane.back {
        true => "back",
        false => "front",
    };
    gauge!(QUEUE, "model" => model.as_str(), "priority" => priority, "lane" => name)
        .set(length as f64);
}

pub fn disk(free: u64, size: u64) {
    gauge!(DISK_FREE).set(free as f64);
    gauge!(DISK_SIZE).set(size as f64);
}

pub fn log_room(bytes: u64, max: u64) {
    gauge!(LOG_BYTES).set(bytes as f64);
    gauge!(LOG_MAX).set(max as f64);
}
