//! What monitor counts and measures.

use jiff::Timestamp;
use metrics::{counter, gauge, histogram};
use spotreel_domain::alarm::{AlarmBoard, AlarmName};
use spotreel_domain::task::{AttemptOutcome, Task};
use spotreel_domain::{Lane, Model, Priority};

spotreel_bootstrap::metrics! {
    Counter SWEPT = "spotreel_monitor_swept_total", Count,
        "Work items of ended rounds deleted from the log";
    Counter REMOVED = "spotreel_monitor_removed_events_total", Count, "Events deleted from the log";
    Counter OBJECTS = "spotreel_monitor_removed_objects_total", Count,
        "Checkpoints and unnamed videos deleted from the store";
    Counter EXPIRED = "spotreel_monitor_expired_total", Count, "Tasks ended at their deadline";
    Counter RESTORED = "spotreel_monitor_restored_total", Count,
        "Unfinished tasks queued again because their work item was missing";
    Counter RETRIES = "spotreel_monitor_retries_total", Count,
        "Events whose handling failed and was repeated, by consumer";
    Counter UNREADABLE = "spotreel_monitor_unreadable_total", Count,
        "Messages of the log that are not protobuf and were skipped, by consumer";
    Counter HELD = "spotreel_monitor_held_total", Count,
        "Deliveries of events of a newer version, which were handed back, by consumer";
    Gauge MARK = "spotreel_monitor_sweeper_mark_timestamp_seconds", Seconds,
        "Unix time of the last pass that found no obsolete work item";
    Counter LEDGERS = "spotreel_monitor_ledgers_total", Count,
        "Ledgers of ended batches that were stored";
    Gauge LEDGERS_WAITING = "spotreel_monitor_ledgers_waiting", Count,
        "Ended batches whose ledger is not stored yet";
    Histogram LOAD = "spotreel_monitor_load_seconds", Seconds,
        "Time from the start of an attempt until the model was loaded, by model";
    Histogram RENDER = "spotreel_monitor_render_seconds", Seconds,
        "Time from then until the task succeeded, by model";
    Gauge PENDING = "spotreel_consumer_pending", Count,
        "Events that were not yet delivered to a consumer of the log";
    Gauge ACK_PENDING = "spotreel_consumer_ack_pending", Count,
        "Events that were delivered to a consumer of the log and are not acked";
    Gauge QUEUE = "spotreel_queue_length", Count,
        "Queued and started tasks, by model, priority and lane";
    Gauge LOG_BYTES = "spotreel_log_bytes", Bytes, "Bytes of the task log";
    Gauge LOG_MAX = "spotreel_log_max_bytes", Bytes, "Maximum bytes of the task log";
    Gauge DISK_FREE = "spotreel_store_disk_free_bytes", Bytes,
        "Free bytes of the disk under the NATS server";
    Gauge DISK_SIZE = "spotreel_store_disk_bytes", Bytes, "Bytes of the disk under the NATS server";
    Gauge COPY_BEHIND = "spotreel_monitor_events_copy_behind", Count,
        "Events that the clients' copy of EVENTS does not have yet";
    Gauge SEARCH_BEHIND = "spotreel_monitor_search_behind", Count,
        "Events of the task log that the search file does not have yet";
    Gauge SEARCH_TASKS = "spotreel_monitor_search_tasks", Count, "Tasks in the search file";
    Gauge SEARCH_BYTES = "spotreel_monitor_search_file_bytes", Bytes, "Bytes of the search file";
    Gauge ALARMS = "spotreel_monitor_alarms_firing", Count, "Alarms that fire, by name";
    Counter ALARMS_TOLD = "spotreel_monitor_alarms_told_total", Count,
        "Events of alarms that were published, by name and state";
}

/// Zero is told, too.
pub fn alarms(board: &AlarmBoard) {
    for name in AlarmName::ALL {
        let firing = board.firing().filter(|alarm| alarm.name == name).count();
        gauge!(ALARMS, "alarm" => name.as_str()).set(firing as f64);
    }
}

pub fn alarm_told(alarm: &'static str, state: &'static str) {
    counter!(ALARMS_TOLD, "alarm" => alarm, "state" => state).increment(1);
}

/// The task has ended, or handed back: its newest attempt is over.
pub fn attempt_ended(task: &Task) {
    let (Some(attempt), model) = (task.attempts.last(), task.spec.model.as_str()) else {
        return;
    };
    if let Some(took) = attempt.loading() {
        histogram!(LOAD, "model" => model).record(took.as_secs_f64());
    }
    // The others did not render a whole video.
    if let (AttemptOutcome::Succeeded, Some(took)) = (attempt.outcome, attempt.rendering()) {
        histogram!(RENDER, "model" => model).record(took.as_secs_f64());
    }
}

pub fn closed_ledger() {
    counter!(LEDGERS).increment(1);
}

pub fn open_ledgers(batches: usize) {
    gauge!(LEDGERS_WAITING).set(batches as f64);
}

pub fn copy_behind(events: u64) {
    gauge!(COPY_BEHIND).set(events as f64);
}

pub fn search_behind(events: u64) {
    gauge!(SEARCH_BEHIND).set(events as f64);
}

pub fn search_size(tasks: u64, bytes: u64) {
    gauge!(SEARCH_TASKS).set(tasks as f64);
    gauge!(SEARCH_BYTES).set(bytes as f64);
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
