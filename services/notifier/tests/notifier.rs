//! Each event once and in order, whoever crashes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use spotreel_api::{BatchView, CloudEvent, TaskView};
use spotreel_bootstrap::{Config, Health};
use spotreel_bus::names::{BATCHES, CONSUMER_NOTIFIER, EVENTS, HEADER_LOG_SEQUENCE, TASKS};
use spotreel_bus::{Handled, Queue};
use spotreel_domain::batch::Status;
use spotreel_notifier::{DEFAULTS, Notifier, NotifierConfig, Said};
use spotreel_s3::{Keys, Store};
use spotreel_test_kit::{Logs, Nats, always, pool, until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn config() -> NotifierConfig {
    let config: NotifierConfig = toml::from_str(DEFAULTS).unwrap();
    config.validate().unwrap();
    config
}

async fn notifier(nats: &Nats) -> Notifier {
    let keys = Keys::new("local", "local-secret");
    let store = Store::connect_with_keys(&config().s3, keys).await;
    Notifier::new(&nats.client("notifier").await, store, config()).await
}

struct Running {
    task: JoinHandle<()>,
    health: Health,
    stopping: CancellationToken,
}

async fn run(nats: &Nats) -> Running {
    let (notifier, health, stopping) = (
        notifier(nats).await,
        Health::new(),
        CancellationToken::new(),
    );
    notifier.announce(&health);
    let (heard, told) = (health.clone(), stopping.clone());
    let task = tokio::spawn(async move { Arc::new(notifier).run(&heard, &told).await });
    Running {
        task,
        health,
        stopping,
    }
}

struct Public {
    subject: String,
    log_sequence: u64,
    trace: Option<String>,
    event: CloudEvent<TaskView>,
}

/// All public events, in order.
async fn public(hand: &Logs) -> Vec<Public> {
    let context = async_nats::jetstream::new(hand.client.clone());
    let stream = context.get_stream(EVENTS).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let mut all = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| {
            message
                .headers
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        all.push(Public {
            subject: message.subject.to_string(),
            log_sequence: header(HEADER_LOG_SEQUENCE).unwrap().parse().unwrap(),
            trace: header("traceparent"),
            event: serde_json::from_slice(&message.payload).unwrap(),
        });
    }
    all
}

/// Every event of the log, once, and those of a task in the order of the log.
fn assert_all_once_in_order(said: &[Public], end: u64) {
    let mut sequences: Vec<u64> = said.iter().map(|event| event.log_sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=end).collect::<Vec<_>>());
    assert_tasks_in_order(said);
}

fn assert_tasks_in_order(said: &[Public]) {
    let mut newest = HashMap::new();
    for event in said {
        let before = newest.insert(event.event.subject.clone(), event.log_sequence);
        assert!(
            before < Some(event.log_sequence),
            "{} of {} follows {before:?}",
            event.subject,
            event.log_sequence
        );
    }
}

async fn log_end(hand: &Logs) -> u64 {
    let context = async_nats::jetstream::new(hand.client.clone());
    context
        .get_stream(TASKS)
        .await
        .unwrap()
        .cached_info()
        .state
        .last_sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_event_once_and_in_order_with_two_notifiers() {
    let nats = Nats::for_services().await;
    let hand = Arc::new(Logs::of(&nats).await);
    let both = [run(&nats).await, run(&nats).await];
    let writers = (0..5).map(|n| {
        let hand = Arc::clone(&hand);
        tokio::spawn(async move {
            let task = hand.submit(&format!("t{n}")).await;
            let task = hand.started(&task).await;
            hand.succeeded(&task, &format!("renders/t{n}/{}.mp4", task.sequence))
                .await;
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let end = log_end(&hand).await;
    until("all is said", async || {
        public(&hand).await.len() as u64 == end
    })
    .await;
    let said = public(&hand).await;
    assert_all_once_in_order(&said, end);

    let success = said
        .iter()
        .find(|event| event.subject == "spotreel.task.t0.succeeded")
        .unwrap();
    assert_eq!(success.event.kind, "io.spotreel.task.succeeded.v1");
    assert_eq!(success.event.id, format!("t0/{}", success.log_sequence));
    let video = success.event.data.video.as_ref().unwrap();
    let url = video.url.as_ref().unwrap();
    assert!(
        url.contains(&video.artifact.key) && url.contains("X-Amz-Expires=86400"),
        "{url}"
    );
    assert!(video.url_expires_at.unwrap() > success.event.time);
    assert!(video.poster_url.as_ref().unwrap().contains(".jpg?"));
    for one in both {
        assert!(one.health.readiness().ready);
        one.stopping.cancel();
        one.task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_between_publish_and_ack_says_nothing_twice() {
    let nats = Nats::for_services().await;
    let hand = Logs::of(&nats).await;
    hand.started(&hand.submit("t1").await).await;

    // The crash: published, and never acked. The lease is ended early.
    let dying = notifier(&nats).await;
    let client = nats.client("notifier").await;
    let queue = Queue::open(&client, TASKS, CONSUMER_NOTIFIER)
        .await
        .unwrap();
    let delivery = queue.pull(Duration::from_secs(2)).await.unwrap().unwrap();
    // A second one that was handed the same message decides the same.
    for _ in 0..2 {
        let group = vec![delivery.recorded().unwrap()];
        let outcomes = dying.publish_group(group).await;
        assert!(matches!(outcomes.as_slice(), [Ok(Handled::Done)]));
    }
    delivery.nak(Duration::ZERO).await.unwrap();

    let next = run(&nats).await;
    until("the next event is said", async || {
        public(&hand).await.len() == 2
    })
    .await;
    let subjects: Vec<_> = public(&hand)
        .await
        .into_iter()
        .map(|event| event.subject)
        .collect();
    assert_eq!(
        subjects,
        ["spotreel.task.t1.queued", "spotreel.task.t1.started"]
    );

    // Killed while it waits for more: the one after it goes on.
    next.task.abort();
    let _ = next.task.await;
    let _other = run(&nats).await;
    hand.cancelled(&hand.last("t1").await).await;
    until("the end is said", async || public(&hand).await.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_later_round_is_heard_again() {
    let nats = Nats::for_services().await;
    let hand = Logs::of(&nats).await;
    let _running = run(&nats).await;
    let first = hand.submit("t1").await;
    let first = hand.failed(&hand.started(&first).await).await;
    let second = hand.requeued(&first).await;
    hand.failed(&hand.started(&second).await).await;
    until("both rounds are said", async || {
        public(&hand).await.len() == 6
    })
    .await;
    let said: Vec<_> = public(&hand)
        .await
        .into_iter()
        .map(|event| {
            (
                event.subject.rsplit('.').next().unwrap().to_owned(),
                event.event.data.round,
            )
        })
        .collect();
    let expected = [
        ("queued", 1),
        ("started", 1),
        ("failed", 1),
        ("queued", 2),
        ("started", 2),
        ("failed", 2),
    ];
    assert_eq!(
        said,
        expected.map(|(event, round)| (event.to_owned(), round))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_read_is_passed_over_and_the_trace_goes_along() {
    let nats = Nats::for_services().await;
    let hand = Logs::of(&nats).await;
    let context = async_nats::jetstream::new(hand.client.clone());
    let garbage = context
        .publish("spotreel.log.t0.failed", "garbage".into())
        .await
        .unwrap();
    garbage.await.unwrap();
    let written = hand.submit("t1").await;
    let mut append = spotreel_bus::log::Append::new(
        written.task.cancelled(written.task.at).unwrap(),
        written.sequence,
        spotreel_bootstrap::ambient::uuid_v4(),
    );
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    append.headers.insert("traceparent", trace);
    hand.tasks.append(&append).await.unwrap();
    let running = run(&nats).await;
    until("both events are said", async || {
        public(&hand).await.len() == 2
    })
    .await;
    assert_eq!(public(&hand).await[1].trace.as_deref(), Some(trace));
    assert!(running.health.readiness().ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_of_a_newer_version_is_held_and_so_are_the_later_ones_of_its_task() {
    let nats = Nats::for_services().await;
    let hand = Logs::of(&nats).await;
    let context = async_nats::jetstream::new(hand.client.clone());
    let mut told = Vec::new();
    // An event whose name this version does not know, and a known one whose state it does not know.
    for (id, event, payload) in [("t0", "paused", "garbage"), ("t1", "failed", "")] {
        let subject = format!("spotreel.log.{id}.{event}");
        let mut task = hand.submit(id).await;
        let stored = context.publish(subject.clone(), payload.into()).await;
        let sequence = stored.unwrap().await.unwrap().sequence;
        let running = run(&nats).await;
        let check = "consumer notifier of TASKS";
        until("the notifier says that it is too old", async || {
            let checks = running.health.readiness().checks;
            let reason = checks.get(check).and_then(|found| found.reason.clone());
            reason.is_some_and(|reason| reason.contains(&subject) && reason.contains("newer"))
        })
        .await;
        task.sequence = sequence;
        let behind = hand.cancelled(&task).await;
        let other = format!("other-{id}");
        hand.submit(&other).await;
        told.extend([format!("{id}.queued"), format!("{other}.queued")]);
        until("the other task is told", async || {
            public(&hand).await.len() == told.len()
        })
        .await;
        let longer_than_a_retry = Duration::from_millis(600);
        always("the later event waits", longer_than_a_retry, || async {
            public(&hand).await.len() == told.len()
        })
        .await;
        running.stopping.cancel();
        running.task.await.unwrap();
        // The newer version has read it, and told what is behind it.
        let client = nats.client("notifier").await;
        let queue = Queue::open(&client, TASKS, CONSUMER_NOTIFIER).await;
        let queue = queue.unwrap();
        for _ in 0..2 {
            let held = queue.pull(Duration::from_secs(10)).await.unwrap().unwrap();
            assert!([sequence, behind.sequence].contains(&held.sequence));
            held.ack().await.unwrap();
        }
    }
    let said = public(&hand).await;
    let subjects: Vec<_> = said.iter().map(|event| event.subject.as_str()).collect();
    let expected: Vec<_> = told
        .iter()
        .map(|name| format!("spotreel.task.{name}"))
        .collect();
    assert_eq!(subjects, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_are_told_beside_tasks_each_event_once() {
    let nats = Nats::for_services().await;
    let hand = Logs::of(&nats).await;
    let pool = pool("default");
    hand.request(&pool, 2).await;

    // A crash between publish and ack.
    let dying = notifier(&nats).await;
    let client = nats.client("notifier").await;
    let queue = Queue::open(&client, BATCHES, CONSUMER_NOTIFIER).await;
    let delivery = queue.unwrap().pull(Duration::from_secs(2)).await;
    let delivery = delivery.unwrap().unwrap();
    let recorded = delivery.recorded_batch().unwrap();
    for said in [Said::Now, Said::Before] {
        assert_eq!(dying.publish_batch(&recorded).await.unwrap(), said);
    }
    delivery.nak(Duration::ZERO).await.unwrap();

    hand.update(&pool, |batch| {
        batch.status = Status::Failed {
            reason: "no place under the cap".into(),
        };
    })
    .await;
    hand.submit("t1").await;
    let both = [run(&nats).await, run(&nats).await];
    let context = async_nats::jetstream::new(hand.client.clone());
    let stream = context.get_stream(EVENTS).await.unwrap();
    until("all is said", async || {
        stream.get_info().await.unwrap().state.messages == 3
    })
    .await;
    let mut told = Vec::new();
    for sequence in 1..=3 {
        let message = stream.get_raw_message(sequence).await.unwrap();
        if message.subject.starts_with("spotreel.batch.") {
            let event: CloudEvent<BatchView> = serde_json::from_slice(&message.payload).unwrap();
            told.push((message.subject.to_string(), event));
        }
    }
    assert_eq!(told[0].0, "spotreel.batch.default-1.requested");
    assert_eq!(told[1].0, "spotreel.batch.default-1.failed");
    assert_eq!(told[1].1.kind, "io.spotreel.batch.failed.v1");
    let end = &told[1].1.data;
    assert_eq!(end.reason.as_deref(), Some("no place under the cap"));
    assert!(end.receipt.is_some() && told[0].1.data.receipt.is_none());
    assert!(both.iter().all(|one| one.health.readiness().ready));
}

#[test]
fn links_last_seven_days_at_most() {
    let mut config = config();
    config.link_expires = Duration::from_secs(8 * 24 * 3600);
    assert!(config.validate().is_err());
}
