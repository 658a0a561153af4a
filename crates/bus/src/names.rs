//! Every name on the bus. docs/messages.md lists them for readers; a test compares the two.

use spotreel_domain::alarm::AlarmName;
use spotreel_domain::allocation::AttemptRecord;
use spotreel_domain::batch::{BatchId, PoolName, Status};
use spotreel_domain::webhook::{EventFilter, Recovery, WebhookId};
use spotreel_domain::{Event, Lane, Model, TaskId};

pub const TASKS: &str = "TASKS";
pub const BATCHES: &str = "BATCHES";
pub const EVENTS: &str = "EVENTS";
/// Answers how the copy of EVENTS in the clients' account stands.
pub const MIRROR_INFO: &str = "spotreel.mirror.INFO";
pub const INBOX: &str = "INBOX";
/// What attempts cost: kept longer than their tasks.
pub const LEDGER: &str = "LEDGER";

/// All of a stream, whatever it is, without a look at subjects: with [`LOG_ALL`] a scan makes the server compare those of a
/// whole block, thousands.
pub const EVERY_SUBJECT: &str = ">";
pub const LOG_ALL: &str = "spotreel.log.>";
pub const BATCHLOG_ALL: &str = "spotreel.batchlog.>";
pub const EVENT_SUBJECTS: [&str; 5] = [
    "spotreel.task.>",
    "spotreel.rejected.*",
    "spotreel.batch.>",
    "spotreel.alarm.>",
    "spotreel.webhook.>",
];
pub const LEDGER_ALL: &str = "spotreel.ledger.>";
pub const INBOX_SUBJECT: &str = "spotreel.inbox";

pub const SUBMIT: &str = "spotreel.submit";
pub const GET: &str = "spotreel.get";
pub const LIST: &str = "spotreel.list";
pub const CANCEL: &str = "spotreel.cancel";
pub const RETRY: &str = "spotreel.retry";
/// Which rule runs the queue and when; what tasks would cost; the batches; the instances; tasks by words and filters: for
/// every client.
pub const WHY: &str = "spotreel.why";
pub const QUOTE: &str = "spotreel.quote";
pub const LIST_BATCHES: &str = "spotreel.batches";
pub const FLEET: &str = "spotreel.fleet";
pub const SEARCH: &str = "spotreel.search";
/// What fires now, and what to do about it: for every client.
pub const ALARMS: &str = "spotreel.alarms";
/// What a task or a batch cost; what all of them cost in a span of time: for every client.
pub const RECEIPT: &str = "spotreel.receipt";
pub const COSTS: &str = "spotreel.costs";
/// Orders, for operators only.
pub const OPS_RUN: &str = "spotreel.ops.run";
pub const OPS_HOLD: &str = "spotreel.ops.hold";
pub const OPS_RESUME: &str = "spotreel.ops.resume";
pub const OPS_STOP: &str = "spotreel.ops.stop";
pub const OPS_DRAIN: &str = "spotreel.ops.drain";
pub const OPS_KEY_CREATE: &str = "spotreel.ops.key.create";
pub const OPS_KEY_LIST: &str = "spotreel.ops.key.list";
pub const OPS_KEY_REVOKE: &str = "spotreel.ops.key.revoke";
pub const OPS_WEBHOOK_CREATE: &str = "spotreel.ops.webhook.create";
pub const OPS_WEBHOOK_LIST: &str = "spotreel.ops.webhook.list";
pub const OPS_WEBHOOK_ENABLE: &str = "spotreel.ops.webhook.enable";
pub const OPS_WEBHOOK_DISABLE: &str = "spotreel.ops.webhook.disable";
pub const OPS_WEBHOOK_DELETE: &str = "spotreel.ops.webhook.delete";
pub const OPS_WEBHOOK_ROTATE: &str = "spotreel.ops.webhook.rotate";
pub const OPS_WEBHOOK_SECRET: &str = "spotreel.ops.webhook.secret";
pub const OPS_WEBHOOK_DELIVERIES: &str = "spotreel.ops.webhook.deliveries";
pub const OPS_WEBHOOK_RESEND: &str = "spotreel.ops.webhook.resend";
pub const OPS_WEBHOOK_RECOVER: &str = "spotreel.ops.webhook.recover";
pub const VERBS: [&str; 31] = [
    SUBMIT,
    GET,
    LIST,
    CANCEL,
    RETRY,
    WHY,
    QUOTE,
    LIST_BATCHES,
    FLEET,
    SEARCH,
    ALARMS,
    RECEIPT,
    COSTS,
    OPS_RUN,
    OPS_HOLD,
    OPS_RESUME,
    OPS_STOP,
    OPS_DRAIN,
    OPS_KEY_CREATE,
    OPS_KEY_LIST,
    OPS_KEY_REVOKE,
    OPS_WEBHOOK_CREATE,
    OPS_WEBHOOK_LIST,
    OPS_WEBHOOK_ENABLE,
    OPS_WEBHOOK_DISABLE,
    OPS_WEBHOOK_DELETE,
    OPS_WEBHOOK_ROTATE,
    OPS_WEBHOOK_SECRET,
    OPS_WEBHOOK_DELIVERIES,
    OPS_WEBHOOK_RESEND,
    OPS_WEBHOOK_RECOVER,
];

/// The service that answers a verb.
pub fn program_of(verb: &str) -> &'static str {
    match verb {
        WHY | QUOTE | LIST_BATCHES | OPS_RUN | OPS_HOLD | OPS_RESUME => "spotreel-trigger",
        FLEET | OPS_STOP | OPS_DRAIN => "spotreel-fleet",
        SEARCH | ALARMS | RECEIPT | COSTS => "spotreel-monitor",
        verb if verb.starts_with("spotreel.ops.webhook.") => "spotreel-notifier",
        _ => "spotreel-intake",
    }
}

pub const WORKERS_BUCKET: &str = "spotreel-workers";
pub const MARKS_BUCKET: &str = "spotreel-marks";
/// What operators have ordered of trigger.
pub const CONTROLS_BUCKET: &str = "spotreel-controls";
/// The HTTP API's keys, without their secrets.
pub const KEYS_BUCKET: &str = "spotreel-keys";
/// The endpoints of webhooks and the secrets of callbacks.
pub const WEBHOOKS_BUCKET: &str = "spotreel-webhooks";
/// The log of deliveries.
pub const DELIVERIES_BUCKET: &str = "spotreel-deliveries";
/// When the sweeper last saw that no finished task holds an entry.
pub const SWEEPER_MARK: &str = "sweeper";

/// Of TASKS and of BATCHES.
pub const CONSUMER_NOTIFIER: &str = "notifier";
pub const CONSUMER_SWEEPER: &str = "sweeper";
pub const CONSUMER_JANITOR: &str = "janitor";
pub const CONSUMER_DEADLINES: &str = "deadlines";
pub const CONSUMER_LEDGER: &str = "ledger";
pub const CONSUMER_INTAKE: &str = "intake";
/// Of EVENTS: the ends of tasks, some of which have a `callback_url`.
pub const CONSUMER_CALLBACKS: &str = "callbacks";

/// Tells an append from every other try at the same place: after a timeout its author finds out whether it was stored.
pub const HEADER_OP: &str = "Spotreel-Op";
/// In EVENTS: the log sequence that a public event was made from.
pub const HEADER_LOG_SEQUENCE: &str = "Spotreel-Log-Sequence";
pub const HEADER_EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
pub const HEADER_EXPECTED_FILTER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Whether an answer may go there. Anything else could be a log itself: the answer would be stored as an event.
pub fn is_inbox(reply: &str) -> bool {
    // One's own account's inboxes, and what the border between the accounts makes of the others'.
    ["_INBOX", "_R_"]
        .iter()
        .any(|prefix| reply.starts_with(prefix))
}

/// All events of a task. It is also *the* compare-and-set filter: two different filters over the same subjects admit
/// two winners on a cluster, so every writer takes it from here, byte for byte.
pub fn log_of(id: &TaskId) -> String {
    format!("spotreel.log.{id}.>")
}

pub fn log_event(id: &TaskId, event: Event, model: Model, lane: Lane) -> String {
    match event {
        Event::Queued => format!("spotreel.log.{id}.queued.{model}.{}", lane.as_token()),
        other => format!("spotreel.log.{id}.{}", other.as_str()),
    }
}

/// The task and the event that a subject of the log names.
pub fn parse_log_subject(subject: &str) -> Option<(TaskId, Event)> {
    let mut tokens = subject.strip_prefix("spotreel.log.")?.split('.');
    let id = TaskId::parse(tokens.next()?).ok()?;
    Some((id, Event::parse(tokens.next()?)?))
}

/// All events of a pool's batches, and *the* compare-and-set filter of that log, byte for byte.
pub fn batchlog_of(pool: &PoolName) -> String {
    format!("spotreel.batchlog.{pool}.>")
}

pub fn batchlog_of_batch(id: &BatchId) -> String {
    format!("spotreel.batchlog.{}.{}.>", id.pool, id.number)
}

pub fn batchlog_event(id: &BatchId, status: &str) -> String {
    format!("spotreel.batchlog.{}.{}.{status}", id.pool, id.number)
}

/// The batch that a subject of the batch log names, and the name of its status.
pub fn parse_batchlog_subject(subject: &str) -> Option<(BatchId, &'static str)> {
    let mut tokens = subject.strip_prefix("spotreel.batchlog.")?.split('.');
    let (pool, number, name) = (tokens.next()?, tokens.next()?, tokens.next()?);
    let id = BatchId::parse(&format!("{pool}-{number}"))?;
    let status = Status::NAMES.into_iter().find(|status| *status == name)?;
    tokens.next().is_none().then_some((id, status))
}

/// Public.
pub fn batch_event_of(id: &BatchId, event: &str) -> String {
    format!("spotreel.batch.{id}.{event}")
}

pub fn batch_events_of(id: &BatchId) -> String {
    format!("spotreel.batch.{id}.>")
}

/// Public. `state` is `firing` or `resolved`.
pub fn alarm_event_of(name: AlarmName, state: &str) -> String {
    format!("spotreel.alarm.{name}.{state}")
}

pub fn alarm_events_of(name: AlarmName) -> String {
    format!("spotreel.alarm.{name}.>")
}

/// In the bucket of marks: the state of all alarms, which monitor keeps.
pub const ALARMS_MARK: &str = "alarms";
/// An attempt as a record knows it: the same attempt has up to three of them.
pub fn ledger_attempt(record: &AttemptRecord) -> String {
    let AttemptRecord {
        task, born, number, ..
    } = record;
    let instance = token(&record.attempt.instance);
    let knows = record.knows().as_str();
    format!("spotreel.ledger.attempt.{instance}.{task}.{born}.{number}.{knows}")
}

/// The attempts that were made on an instance.
pub fn ledger_attempts_on(instance: &str) -> String {
    format!("spotreel.ledger.attempt.{}.>", token(instance))
}

/// What a task cost in a closed batch.
pub fn ledger_share(batch: &BatchId, task: &TaskId) -> String {
    let BatchId { pool, number } = batch;
    format!("spotreel.ledger.share.{pool}.{number}.{task}")
}

/// What each task cost in a closed batch.
pub fn ledger_shares_in(batch: &BatchId) -> String {
    let BatchId { pool, number } = batch;
    format!("spotreel.ledger.share.{pool}.{number}.*")
}

/// What a task cost in each closed batch.
pub fn ledger_shares_of(task: &TaskId) -> String {
    format!("spotreel.ledger.share.*.*.{task}")
}

/// A part of the costs of a closed batch, by day, owner, model and labels.
pub fn ledger_costs(batch: &BatchId, part: usize) -> String {
    let BatchId { pool, number } = batch;
    format!("spotreel.ledger.costs.{pool}.{number}.{part}")
}

/// The costs of every closed batch.
pub const LEDGER_COSTS: &str = "spotreel.ledger.costs.>";

/// The ledger of a closed batch, which is written last.
pub fn ledger_batch(batch: &BatchId) -> String {
    let BatchId { pool, number } = batch;
    format!("spotreel.ledger.batch.{pool}.{number}")
}

/// The closed batch that a subject of the ledger names.
pub fn parse_ledger_subject(subject: &str) -> Option<BatchId> {
    let mut tokens = subject.strip_prefix("spotreel.ledger.")?.split('.').skip(1);
    BatchId::parse(&format!("{}-{}", tokens.next()?, tokens.next()?))
}

/// Public.
pub fn webhook_event_of(id: &WebhookId, event: &str) -> String {
    format!("spotreel.webhook.{id}.{event}")
}

pub fn webhook_events_of(id: &WebhookId) -> String {
    format!("spotreel.webhook.{id}.>")
}

/// The consumer of EVENTS that is the queue of an endpoint.
pub fn webhook_consumer(id: &WebhookId) -> String {
    format!("{WEBHOOK_CONSUMER}{id}")
}

/// The consumer that sends an endpoint again what it has missed: another one for each order.
pub fn recovery_consumer(id: &WebhookId, recovery: &Recovery) -> String {
    let ordered_at = recovery.ordered_at.as_millisecond();
    format!("{WEBHOOK_CONSUMER}{id}-{ordered_at}")
}

pub const WEBHOOK_CONSUMER: &str = "webhook-";

/// The subjects of EVENTS that an endpoint wants, none of which covers another; empty: all of them.
pub fn subjects_of(filters: &[EventFilter]) -> Vec<String> {
    let parts = || filters.iter().map(EventFilter::parts);
    if parts().any(|(topic, _)| topic == "*") {
        return Vec::new();
    }
    let is_whole = |topic: &str| parts().any(|other| other == (topic, "*"));
    let mut subjects: Vec<_> = parts()
        .filter(|(topic, event)| *event == "*" || !is_whole(topic))
        .map(|(topic, event)| match event {
            "*" => format!("spotreel.{topic}.>"),
            event => format!("spotreel.{topic}.*.{event}"),
        })
        .collect();
    // A submission without an id was no task.
    if parts().any(|(topic, event)| topic == "task" && matches!(event, "*" | "rejected")) {
        subjects.push("spotreel.rejected.*".to_owned());
    }
    subjects.sort();
    subjects.dedup();
    subjects
}

/// Before a pool's name, in the bucket of marks: what its finished tasks have said of the cost model. Fleet writes it at the
/// end of a batch.
pub const PACE_MARK: &str = "pace.";

/// The subject of a bucket's key.
pub(crate) fn bucket_key(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Where the lease of a service's leader stands, in the bucket of marks.
pub fn leader_key(service: &str) -> String {
    bucket_key(MARKS_BUCKET, &format!("leader.{service}"))
}

pub fn work_filter(model: Model, lane: Lane) -> String {
    format!("spotreel.log.*.queued.{model}.{}", lane.as_token())
}

pub fn work_consumer(model: Model, lane: Lane) -> String {
    format!("{model}_{}", lane.as_token())
}

pub fn event_of(id: &TaskId, event: &str) -> String {
    format!("spotreel.task.{id}.{event}")
}

pub fn events_of(id: &TaskId) -> String {
    format!("spotreel.task.{id}.>")
}

pub fn rejected(sequence: u64) -> String {
    format!("spotreel.rejected.{sequence}")
}

/// Of every task.
pub const ALL_PROGRESS: &str = "spotreel.progress.*";

pub fn progress(id: &TaskId) -> String {
    format!("spotreel.progress.{id}")
}

/// A hint, never a promise: whoever works on the task should read the log now.
pub fn hint(id: &TaskId) -> String {
    format!("spotreel.hint.{id}")
}

/// Where the workers of an instance are told to take nothing more. A host's name may hold dots; its token does not.
pub fn worker_drain(instance: &str) -> String {
    format!("spotreel.worker.drain.{}", token(instance))
}

/// Where the worker of an instance hears from fleet that it stays although it has no work.
pub fn worker_stay(instance: &str) -> String {
    format!("spotreel.worker.stay.{}", token(instance))
}

/// `text` as one token of a subject.
pub fn token(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect()
}
