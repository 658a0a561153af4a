//! What every delivery of a log's event goes through, on a real server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use parking_lot::Mutex;
use spotreel_bus::consume::{ConsumerSpec, HandlerError, Notice};
use spotreel_bus::log::Append;
use spotreel_bus::names::{CONSUMER_SWEEPER, TASKS};
use spotreel_bus::{Consumer, Handled, Queue, Recorded};
use spotreel_domain::Model;
use spotreel_test_kit::{Logs, Nats, tasks, until};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(150);

#[derive(Debug, thiserror::Error)]
#[error("the store does not answer")]
struct Fault;

impl HandlerError for Fault {}

/// A consumer of the log, and what its program hears of it.
struct Scene {
    nats: Nats,
    logs: Logs,
    stopping: CancellationToken,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Scene {
    async fn set() -> Self {
        let nats = Nats::for_services().await;
        Self {
            logs: Logs::of(&nats).await,
            nats,
            stopping: CancellationToken::new(),
            notices: Arc::default(),
        }
    }

    fn consumer(&self) -> Consumer {
        self.consumer_of(4)
    }

    fn consumer_of(&self, concurrent: usize) -> Consumer {
        self.waiting(concurrent, Duration::from_millis(200))
    }

    fn waiting(&self, concurrent: usize, pull_wait: Duration) -> Consumer {
        let spec = ConsumerSpec {
            consumer: CONSUMER_SWEEPER,
            program: "monitor",
            concurrent,
            pull_wait,
            retry_first: FIRST,
            retry_longest: LONGEST,
            tries_until_error: 3,
        };
        let notices = Arc::clone(&self.notices);
        Consumer::new(&self.logs.client, spec, &self.stopping, move |notice| {
            notices.lock().push(notice);
        })
    }

    fn heard(&self, is_wanted: impl Fn(&Notice) -> bool) -> bool {
        self.notices.lock().iter().any(is_wanted)
    }

    /// Number of events that are delivered and not acked.
    async fn unacked(&self) -> usize {
        let context = async_nats::jetstream::new(self.logs.client.clone());
        let stream = context.get_stream(TASKS).await.unwrap();
        let info = stream.consumer_info(CONSUMER_SWEEPER).await.unwrap();
        info.num_ack_pending
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_event_returns_after_growing_delays_and_the_others_do_not_wait() {
    let scene = Scene::set().await;
    let (tries, other) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    scene.logs.submit("t1").await;
    scene.logs.submit("t2").await;
    let running = {
        let (consumer, tries, other) = (scene.consumer(), Arc::clone(&tries), Arc::clone(&other));
        tokio::spawn(async move {
            let handle = |event: Recorded| {
                let (tries, other) = (Arc::clone(&tries), Arc::clone(&other));
                async move {
                    if event.task.id.as_str() == "t2" {
                        *other.lock() = Some(Instant::now());
                        return Ok(Handled::Done);
                    }
                    let mut tries = tries.lock();
                    tries.push(Instant::now());
                    match tries.len() {
                        5 => Ok(Handled::Done),
                        _ => Err(Fault),
                    }
                }
            };
            consumer.run(handle).await;
        })
    };
    until("the fifth try succeeds", async || {
        tries.lock().len() == 5 && scene.unacked().await == 0
    })
    .await;
    let handled_at = Instant::now();
    until("the check recovers", async || {
        scene.notices.lock().last() == Some(&Notice::Check(Ok(())))
    })
    .await;
    assert!(handled_at.elapsed() < Duration::from_secs(10));
    scene.stopping.cancel();
    running.await.unwrap();

    let tries = tries.lock().clone();
    assert!(other.lock().unwrap() < tries[1], "t2 waits for t1");
    let waited: Vec<_> = tries.windows(2).map(|two| two[1] - two[0]).collect();
    for (waited, least) in waited.iter().zip([FIRST, FIRST * 2, LONGEST, LONGEST]) {
        assert!(*waited >= least, "{waited:?}");
    }
    let notices = scene.notices.lock().clone();
    let failures = notices.iter().filter(|notice| **notice == Notice::Failed);
    assert_eq!(failures.count(), 4);
    // The third failure is one too many.
    let failing = |notice: &Notice| {
        matches!(notice, Notice::Check(Err(reason))
            if reason.contains("spotreel.log.t1") && reason.contains("the store does not answer"))
    };
    assert_eq!(notices.first(), Some(&Notice::Check(Ok(()))));
    assert!(notices.iter().any(failing), "{notices:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_that_was_put_off_often_may_still_fail_once() {
    let scene = Scene::set().await;
    let tries = Arc::new(Mutex::new(0));
    scene.logs.submit("t1").await;
    let running = {
        let (consumer, tries) = (scene.consumer(), Arc::clone(&tries));
        tokio::spawn(async move {
            let handle = |_: Recorded| {
                let mut tries = tries.lock();
                *tries += 1;
                let outcome = match *tries {
                    1..5 => Ok(Handled::Later(FIRST)),
                    5 => Err(Fault),
                    _ => Ok(Handled::Done),
                };
                async move { outcome }
            };
            consumer.run(handle).await;
        })
    };
    until("it is handled", async || {
        *tries.lock() == 6 && scene.unacked().await == 0
    })
    .await;
    scene.stopping.cancel();
    running.await.unwrap();
    assert!(scene.heard(|notice| *notice == Notice::Failed));
    assert!(!scene.heard(|notice| matches!(notice, Notice::Check(Err(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_waits_for_the_event_in_hand_and_a_failed_one_is_there_at_once() {
    for fails in [false, true] {
        let scene = Scene::set().await;
        let (began, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        scene.logs.submit("t1").await;
        let running = {
            let consumer = scene.consumer();
            let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
            tokio::spawn(async move {
                let handle = |_: Recorded| {
                    let (began, go_on) = (Arc::clone(&began), Arc::clone(&go_on));
                    async move {
                        began.add_permits(1);
                        let _one = go_on.acquire().await;
                        if fails { Err(Fault) } else { Ok(Handled::Done) }
                    }
                };
                consumer.run(handle).await;
            })
        };
        let _began = began.acquire().await.unwrap();
        scene.stopping.cancel();
        assert!(!running.is_finished());
        go_on.add_permits(1);
        running.await.unwrap();

        let client = scene.nats.client("monitor").await;
        let queue = Queue::open(&client, TASKS, CONSUMER_SWEEPER).await.unwrap();
        let next = queue.pull(Duration::ZERO).await.unwrap();
        assert_eq!(next.is_some(), fails, "what is done is acked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_protobuf_is_skipped_and_a_newer_event_waits_and_fails_the_check() {
    let scene = Scene::set().await;
    let context = async_nats::jetstream::new(scene.logs.client.clone());
    // Well-formed without a state, which only a newer version writes.
    for (subject, payload) in [
        ("spotreel.log.t0.failed", "garbage"),
        ("spotreel.log.t1.failed", ""),
    ] {
        let stored = context.publish(subject, payload.into()).await.unwrap();
        stored.await.unwrap();
    }
    scene.logs.submit("t2").await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let running = {
        let (consumer, seen) = (scene.consumer(), Arc::clone(&seen));
        tokio::spawn(async move {
            let handle = |event: Recorded| {
                seen.lock().push(event.task.id.to_string());
                async { Ok::<_, Fault>(Handled::Done) }
            };
            consumer.run(handle).await;
        })
    };
    until("only the event of a newer version waits", async || {
        !seen.lock().is_empty() && scene.unacked().await == 1
    })
    .await;
    assert_eq!(*seen.lock(), ["t2"]);
    assert!(scene.heard(|notice| *notice == Notice::Unreadable));
    assert!(scene.heard(|notice| *notice == Notice::Held));
    until("the check still fails after the next pull", async || {
        let last = scene.notices.lock().last().cloned();
        matches!(last, Some(Notice::Check(Err(reason)))
            if reason.contains("spotreel.log.t1.failed") && reason.contains("upgrade monitor"))
    })
    .await;
    scene.stopping.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_comes_in_order_and_only_those_that_failed_come_again() {
    let scene = Scene::set().await;
    let context = async_nats::jetstream::new(scene.logs.client.clone());
    for id in ["t1", "t2", "t3"] {
        scene.logs.submit(id).await;
        let garbage = context.publish("spotreel.log.t0.failed", "garbage".into());
        garbage.await.unwrap().await.unwrap();
    }
    let groups = Arc::new(Mutex::new(Vec::new()));
    let running = {
        let (consumer, groups) = (scene.consumer_of(100), Arc::clone(&groups));
        tokio::spawn(async move {
            let handle = |group: Vec<Recorded>| {
                let ids: Vec<_> = group
                    .iter()
                    .map(|event| event.task.id.to_string())
                    .collect();
                let mut groups = groups.lock();
                let is_first = groups.is_empty();
                groups.push(ids);
                let outcome = |event: Recorded| match event.task.id.as_str() {
                    "t1" if is_first => Err(Fault),
                    "t2" if is_first => Ok(Handled::Later(FIRST * 10)),
                    _ => Ok(Handled::Done),
                };
                let outcomes: Vec<_> = group.into_iter().map(outcome).collect();
                async move { outcomes }
            };
            consumer.run_together(handle).await;
        })
    };
    until("everything is acked", async || {
        groups.lock().len() >= 3 && scene.unacked().await == 0
    })
    .await;
    assert_eq!(
        *groups.lock(),
        [vec!["t1", "t2", "t3"], vec!["t1"], vec!["t2"]]
    );
    scene.stopping.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_ends_a_pull_that_waits() {
    let scene = Scene::set().await;
    let consumer = scene.waiting(4, Duration::from_secs(60));
    let running = tokio::spawn(async move {
        let handle = |_: Recorded| async { Ok::<_, Fault>(Handled::Done) };
        consumer.run(handle).await;
    });
    let context = async_nats::jetstream::new(scene.logs.client.clone());
    let stream = context.get_stream(TASKS).await.unwrap();
    until("it waits for an event", async || {
        let info = stream.consumer_info(CONSUMER_SWEEPER).await.unwrap();
        info.num_waiting == 1
    })
    .await;
    scene.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
    ended.expect("the pull does not wait on").unwrap();
}

#[tokio::test]
async fn an_event_is_handled_in_the_trace_of_its_writer() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().build();
    let traced = tracing_opentelemetry::layer().with_tracer(provider.tracer("of a test"));
    let _subscriber = tracing_subscriber::registry().with(traced).set_default();

    let scene = Scene::set().await;
    let step = tasks::queued("t1", &tasks::request(Model::Ti2v5b), |_| {});
    let mut append = Append::new(step, 0, uuid::Uuid::nil());
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    append.headers.insert("traceparent", parent.as_str());
    scene.logs.tasks.append(&append).await.unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let handle = |_: Recorded| {
        let (seen, stopping) = (Arc::clone(&seen), scene.stopping.clone());
        async move {
            let context = tracing::Span::current().context();
            *seen.lock() = context.span().span_context().trace_id().to_string();
            stopping.cancel();
            Ok::<_, Fault>(Handled::Done)
        }
    };
    scene.consumer().run(handle).await;
    assert_eq!(*seen.lock(), TRACE);
}
