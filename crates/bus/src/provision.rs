//! Streams, consumers and buckets as code. One step makes what is missing and widens what an older version has made; what it
//! cannot widen it leaves as it is.
//!
//! Services do not do this at their start: a server with a wrong key or an empty disk looks new, and a service that
//! made its own streams would build an empty system beside the old data.

mod apply;
mod compare;

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, External, RetentionPolicy, Source, StorageType,
};
use spotreel_domain::{Event, Lane, Model};

use crate::names::{
    BATCHES, BATCHLOG_ALL, CONSUMER_CALLBACKS, CONSUMER_DEADLINES, CONSUMER_INTAKE,
    CONSUMER_JANITOR, CONSUMER_LEDGER, CONSUMER_NOTIFIER, CONSUMER_SWEEPER, CONTROLS_BUCKET,
    DELIVERIES_BUCKET, EVENT_SUBJECTS, EVENTS, INBOX, INBOX_SUBJECT, KEYS_BUCKET, LEDGER,
    LEDGER_ALL, LOG_ALL, MARKS_BUCKET, TASKS, WEBHOOKS_BUCKET, WORKERS_BUCKET, work_consumer,
    work_filter,
};

pub use apply::{
    Mode, ProvisionError, ProvisionOutcome, Report, apply, apply_clients, provide, provide_clients,
};

/// Longer than the log keeps a finished task (30 days): a client that was away for a month still learns its end.
const EVENTS_KEPT: Duration = Duration::from_secs(45 * 24 * 3600);
/// Receipts are kept for more than a year.
const BATCHES_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
/// People look at deliveries while a receiver fails, which is given up after days.
const DELIVERIES_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// Some 150,000 deliveries; beyond it the oldest are forgotten, whose events are still sent.
const DELIVERIES_MAX_BYTES: i64 = 64 << 20;
/// Events of one kind that a batch may leave behind: its story is bounded, however long it runs.
const EVENTS_PER_BATCH_STATUS: i64 = 32;
/// Waiting retries and deadlines count as pending; the server's default of 1,000 would block the queue behind them.
const MAX_ACK_PENDING: i64 = 50_000;
/// Longer than a delivery to a receiver may take.
const CALLBACK_LEASE: Duration = Duration::from_secs(60);
/// Open pulls a consumer; the server's default of 512 is less than a large fleet has.
const MAX_WAITING: i64 = 4_096;

/// The sizes of a deployment; everything else is fixed.
#[derive(Clone, Debug)]
pub struct Layout {
    pub replicas: usize,
    /// Time after which a silent worker loses its task.
    pub lease: Duration,
    pub tasks_max_bytes: i64,
    pub events_max_bytes: i64,
    pub inbox_max_bytes: i64,
    pub batches_max_bytes: i64,
    pub ledger_max_bytes: i64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            replicas: 1,
            lease: Duration::from_secs(60),
            tasks_max_bytes: 4 << 30,
            events_max_bytes: 4 << 30,
            inbox_max_bytes: 1 << 30,
            batches_max_bytes: 1 << 30,
            ledger_max_bytes: 1 << 30,
        }
    }
}

pub fn streams(layout: &Layout) -> Vec<Config> {
    let base = |name: &str| Config {
        name: name.to_owned(),
        storage: StorageType::File,
        num_replicas: layout.replicas,
        allow_direct: true,
        ..Config::default()
    };
    let mut all = vec![
        // The truth. No age limit and no TTL: an event that vanished by itself would turn a finished task back.
        Config {
            subjects: vec![LOG_ALL.into()],
            discard: DiscardPolicy::New,
            retention: RetentionPolicy::Limits,
            max_bytes: layout.tasks_max_bytes,
            allow_atomic_publish: true,
            deny_purge: true,
            description: Some("the task log: state, history and work items".into()),
            ..base(TASKS)
        },
        Config {
            subjects: vec![BATCHLOG_ALL.into()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_age: BATCHES_KEPT,
            max_messages_per_subject: EVENTS_PER_BATCH_STATUS,
            max_bytes: layout.batches_max_bytes,
            deny_purge: true,
            description: Some("the batch log: machines, launches, receipts".into()),
            ..base(BATCHES)
        },
        Config {
            subjects: EVENT_SUBJECTS.map(Into::into).to_vec(),
            discard: DiscardPolicy::Old,
            max_bytes: layout.events_max_bytes,
            max_age: EVENTS_KEPT,
            allow_atomic_publish: true,
            description: Some("public events, for clients".into()),
            ..base(EVENTS)
        },
        Config {
            subjects: vec![INBOX_SUBJECT.into()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: layout.inbox_max_bytes,
            description: Some("submissions by publish, until intake has taken them".into()),
            ..base(INBOX)
        },
        // As long as the batches: either can be made again from the attempts and the batch log.
        Config {
            subjects: vec![LEDGER_ALL.into()],
            discard: DiscardPolicy::Old,
            max_age: BATCHES_KEPT,
            max_messages_per_subject: 1,
            max_bytes: layout.ledger_max_bytes,
            allow_atomic_publish: true,
            deny_purge: true,
            description: Some("the ledger: attempts, and what they cost".into()),
            ..base(LEDGER)
        },
    ];
    all.extend(buckets(base));
    all.extend(webhook_streams(base));
    all
}

/// Of services, for each other and for operators.
fn buckets(base: impl Fn(&str) -> Config) -> [Config; 4] {
    [
        Config {
            subjects: vec![format!("$KV.{WORKERS_BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            max_bytes: 16 << 20,
            description: Some("what live workers say of themselves".into()),
            ..base(&format!("KV_{WORKERS_BUCKET}"))
        },
        Config {
            subjects: vec![format!("$KV.{MARKS_BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            max_bytes: 1 << 20,
            description: Some("marks that services leave for each other".into()),
            ..base(&format!("KV_{MARKS_BUCKET}"))
        },
        Config {
            subjects: vec![format!("$KV.{CONTROLS_BUCKET}.>")],
            max_messages_per_subject: 8,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            max_bytes: 1 << 20,
            description: Some("what operators have ordered".into()),
            ..base(&format!("KV_{CONTROLS_BUCKET}"))
        },
        // A key has no TTL; the mark of a revoked one has.
        Config {
            subjects: vec![format!("$KV.{KEYS_BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            max_bytes: 1 << 20,
            description: Some("API keys, without their secrets".into()),
            ..base(&format!("KV_{KEYS_BUCKET}"))
        },
    ]
}

fn webhook_streams(base: impl Fn(&str) -> Config) -> [Config; 2] {
    [
        Config {
            subjects: vec![format!("$KV.{WEBHOOKS_BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            max_bytes: 4 << 20,
            description: Some("endpoints of webhooks, with their secrets".into()),
            ..base(&format!("KV_{WEBHOOKS_BUCKET}"))
        },
        // A log: it forgets the oldest where another bucket would refuse the newest.
        Config {
            subjects: vec![format!("$KV.{DELIVERIES_BUCKET}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            max_age: DELIVERIES_KEPT,
            max_bytes: DELIVERIES_MAX_BYTES,
            allow_rollup: true,
            deny_delete: true,
            description: Some("what came of each delivery of a webhook".into()),
            ..base(&format!("KV_{DELIVERIES_BUCKET}"))
        },
    ]
}

pub fn consumers(layout: &Layout) -> Vec<(&'static str, pull::Config)> {
    let base = |name: &str| pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        // Failures are counted in the task, never by deliveries.
        max_deliver: -1,
        ack_wait: Duration::from_secs(30),
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    };
    let mut all: Vec<(&'static str, pull::Config)> = Vec::new();
    let ends = || {
        Event::ALL
            .into_iter()
            .filter(|event| event.is_terminal())
            .map(|e| format!("spotreel.log.*.{}", e.as_str()))
    };
    // Batches one at a time: the next event goes out only after this one is stored, whoever asks. For tasks notifier itself
    // keeps the order.
    for (stream, subjects, max_ack_pending) in [
        (TASKS, LOG_ALL, MAX_ACK_PENDING),
        (BATCHES, BATCHLOG_ALL, 1),
    ] {
        all.push((
            stream,
            pull::Config {
                filter_subject: subjects.into(),
                max_ack_pending,
                // A crashed notifier delays events by this time; a live one renews.
                ack_wait: Duration::from_secs(5),
                ..base(CONSUMER_NOTIFIER)
            },
        ));
    }
    all.push((
        TASKS,
        pull::Config {
            filter_subjects: ends()
                .chain(["spotreel.log.*.queued.>".to_owned()])
                .collect(),
            ..base(CONSUMER_SWEEPER)
        },
    ));
    all.push((
        TASKS,
        pull::Config {
            filter_subjects: ends().collect(),
            max_ack_pending: -1,
            ..base(CONSUMER_JANITOR)
        },
    ));
    all.push((
        TASKS,
        pull::Config {
            filter_subject: "spotreel.log.*.queued.>".into(),
            max_ack_pending: -1,
            ..base(CONSUMER_DEADLINES)
        },
    ));
    all.push((
        TASKS,
        pull::Config {
            filter_subjects: Event::ALL
                .into_iter()
                .filter(|event| *event != Event::Queued)
                .map(|event| format!("spotreel.log.*.{}", event.as_str()))
                .collect(),
            ..base(CONSUMER_LEDGER)
        },
    ));
    // After the sweeper: they are made only over a log that it has been through.
    for model in Model::ALL {
        for lane in Lane::ALL {
            all.push((
                TASKS,
                pull::Config {
                    filter_subject: work_filter(model, lane),
                    ack_wait: layout.lease,
                    max_waiting: MAX_WAITING,
                    ..base(&work_consumer(model, lane))
                },
            ));
        }
    }
    all.push((
        INBOX,
        pull::Config {
            ..base(CONSUMER_INTAKE)
        },
    ));
    let public_ends = Event::ALL
        .into_iter()
        .filter(|event| event.is_terminal())
        .map(|event| format!("spotreel.task.*.{}", event.as_str()));
    all.push((
        EVENTS,
        pull::Config {
            filter_subjects: public_ends.collect(),
            ack_wait: CALLBACK_LEASE,
            // Those that wait for their next try are pending, too, and must not hold up the others.
            max_ack_pending: -1,
            ..base(CONSUMER_CALLBACKS)
        },
    ));
    all
}

/// The copy of EVENTS in the clients' account, for durable consumers of their own.
pub fn events_mirror(layout: &Layout) -> Config {
    Config {
        name: EVENTS.into(),
        storage: StorageType::File,
        num_replicas: layout.replicas,
        allow_direct: true,
        max_age: EVENTS_KEPT,
        max_bytes: layout.events_max_bytes,
        mirror: Some(Source {
            name: EVENTS.into(),
            external: Some(External {
                api_prefix: "spotreel.mirror".into(),
                delivery_prefix: Some("mirror.events".into()),
            }),
            ..Source::default()
        }),
        ..Config::default()
    }
}
