//! The sequences that broke earlier layouts, against the running services.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use spotreel_api::{ErrorCode, SubmitResult};
use spotreel_bootstrap::ambient;
use spotreel_bus::TaskLog;
use spotreel_bus::names::{self, EVENTS};
use spotreel_bus::provision;
use spotreel_domain::{Event, Model, Priority};
use spotreel_tests::cases;
use spotreel_tests::harness::nats::layout;
use spotreel_tests::harness::tasks::{name, small};
use spotreel_tests::harness::{System, SystemOptions, eventually};

const SOON: Duration = Duration::from_secs(30);

async fn services() -> System {
    System::start(SystemOptions {
        workers: 0,
        ..SystemOptions::default()
    })
    .await
}

/// Every `queued` event in the log: the acceptances and the work items.
async fn entries(log: &TaskLog) -> usize {
    log.scan("spotreel.log.*.queued.>", 1, 1_000)
        .await
        .expect("the log answers")
        .len()
}

// A2: two submissions with one idempotency key, a millisecond apart, land in one atomic batch, inside which the server
// compares nothing: two work items.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_task_twice_at_once_is_one_task() {
    let system = services().await;
    let (api, log) = (system.api().await, system.log().await);
    let task =
        json!({ "idempotency_key": name("order"), "model": "ti2v-5B", "prompt": "a red fox" });
    let twice = api.submit_many(&[task.clone(), task.clone()]).await;
    assert_eq!(twice.accepted, 2, "{twice:?}");
    assert_eq!(twice.results[0], twice.results[1], "the first answer again");
    assert_eq!(entries(&log).await, 1);

    let task =
        json!({ "idempotency_key": name("order"), "model": "ti2v-5B", "prompt": "a red fox" });
    let answers = join_all((0..20).map(|_| api.submit(&task))).await;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(entries(&log).await, 2);

    let other = json!({ "id": answers[0].id, "model": "ti2v-5B", "prompt": "a blue fox" });
    let refused = api
        .ask::<serde_json::Value>("submit", &other)
        .await
        .expect_err("other content");
    assert_eq!(refused.map(|error| error.code), Some(ErrorCode::Conflict));
}

// A5: `succeeded` is stored, the worker dies before its ack, the fleet goes to zero: nobody pulls, and the entry is
// counted for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_entry_of_a_finished_task_is_swept_though_nobody_pulls() {
    let system = services().await;
    let (api, log) = (system.api().await, system.log().await);
    let client = system.nats.client("provision").await;
    let queue = cases::queue(&client).await;
    let (ended, cancelled) = (name("ended"), name("cancelled"));
    let ended_id = api.submit(&small(&ended, 1)).await.id;
    let delivery = cases::pull(&queue).await;
    api.submit(&small(&cancelled, 1)).await;
    cases::start(&log, &ended_id, "dies").await;
    cases::succeed(&log, &ended_id)
        .await
        .expect("nobody else writes");
    drop(delivery);
    api.cancel(&cancelled)
        .await
        .expect("a queued task can be cancelled");
    cases::until_counts(&client, (0, 0)).await;
    eventually("the sweeper says that all is swept", SOON, || async {
        let stream = async_nats::jetstream::new(client.clone())
            .get_stream(format!("KV_{}", names::MARKS_BUCKET))
            .await
            .ok()?;
        let mark = format!("$KV.{}.{}", names::MARKS_BUCKET, names::SWEEPER_MARK);
        stream.get_last_raw_message_by_subject(&mark).await.ok()
    })
    .await;
}

// A10: a full log refuses `started` and `succeeded` like new tasks: videos lie in S3, nothing can be acked.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_up_still_takes_the_events_of_its_tasks() {
    let mut system = services().await;
    // Between two looks at the log so much comes in at most; here the whole reserve is 200 kB.
    system
        .intake
        .spec
        .run
        .settings
        .push(("limits.poll".into(), "50ms".into()));
    system.intake.begin();
    system.intake.ready().await;
    let client = system.nats.client("provision").await;
    let context = async_nats::jetstream::new(client.clone());
    let small_log = provision::Layout {
        tasks_max_bytes: 1 << 20,
        ..layout(SOON, 1)
    };
    let config = provision::streams(&small_log)
        .into_iter()
        .find(|stream| stream.name == "TASKS");
    context
        .update_stream(config.expect("it is a stream of ours"))
        .await
        .expect("it can shrink");
    let (api, log) = (system.api().await, system.log().await);
    let (mut taken, began) = (Vec::new(), std::time::Instant::now());
    let refused = loop {
        match api
            .ask::<spotreel_api::Accepted>("submit", &small(&name("room"), 1))
            .await
        {
            Ok(accepted) => taken.push(accepted.id),
            Err(refused) => break refused.expect("an answer came"),
        }
        assert!(began.elapsed() < SOON, "{} tasks and no end", taken.len());
    };
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert!(
        refused.retry_after_s.is_some(),
        "the client is told when to come again"
    );
    for id in taken.iter().take(20) {
        cases::start(&log, id, "w").await;
        cases::succeed(&log, id)
            .await
            .expect("there is room for what was accepted");
    }
}

// A12: an inbox message that nobody can read has no subject to be answered on; one without an id that is delivered
// again becomes a second task.
#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_answers_everything_and_repeats_nothing() {
    let mut system = services().await;
    let (api, log) = (system.api().await, system.log().await);
    system.intake.kill9();
    let jetstream = async_nats::jetstream::new(api.client.clone());
    let mut stored = Vec::new();
    for body in [
        "no json".to_owned(),
        json!({ "model": "ti2v-5B", "prompt": "a fox" }).to_string(),
    ] {
        let sent = jetstream
            .publish("spotreel.inbox", body.into())
            .await
            .expect("it is sent");
        stored.push(
            sent.await
                .expect("it is stored though intake is down")
                .sequence,
        );
    }
    system.intake.begin();
    eventually("the task is in the log", SOON, || async {
        (entries(&log).await == 1).then_some(())
    })
    .await;
    let provision = system.nats.client("provision").await;
    let events = async_nats::jetstream::new(provision)
        .get_stream(EVENTS)
        .await
        .expect("it is there");
    eventually("the refusal is told", SOON, || async {
        events
            .get_last_raw_message_by_subject(&names::rejected(stored[0]))
            .await
            .ok()
    })
    .await;
    let refused = json!({ "id": name("bad"), "model": "nope", "prompt": "a fox" });
    let id = refused["id"].as_str().expect("a string").to_owned();
    let sent = jetstream
        .publish("spotreel.inbox", refused.to_string().into())
        .await
        .expect("it is sent");
    sent.await.expect("it is stored");
    eventually("the refusal has the task's own subject", SOON, || async {
        let subject = format!("spotreel.task.{id}.rejected");
        events.get_last_raw_message_by_subject(&subject).await.ok()
    })
    .await;
    assert_eq!(entries(&log).await, 1);
}

// A15: one duplicate makes the server refuse a batch of 1,000, and the error names none.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_refuses_nothing_but_itself() {
    let system = services().await;
    let (api, log) = (system.api().await, system.log().await);
    let mut tasks: Vec<_> = (0..300).map(|_| small(&name("list"), 1)).collect();
    let first = api.submit(&tasks[150]).await;
    let mut other = small(tasks[7]["id"].as_str().expect("a string"), 1);
    api.submit(&other).await;
    other["prompt"] = json!("another one");
    tasks[7] = other;
    let answer = api.submit_many(&tasks).await;
    assert_eq!((answer.accepted, answer.refused), (299, 1));
    assert_eq!(
        answer.results[150],
        SubmitResult::Accepted(first),
        "the first answer again"
    );
    assert!(
        matches!(&answer.results[7], SubmitResult::Refused { error } if error.code == ErrorCode::Conflict)
    );
    assert_eq!(entries(&log).await, 300);
}

// A17: history is dropped while a notifier that was away has not read it yet.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_kept_until_every_reader_has_it() {
    let mut system = services().await;
    let (api, log) = (system.api().await, system.log().await);
    system.notifier.kill9();
    for (key, value) in [("janitor.grace", "1s"), ("janitor.remove_every", "1s")] {
        system
            .monitor
            .spec
            .run
            .settings
            .push((key.into(), value.into()));
    }
    system.monitor.begin();
    system.monitor.ready().await;
    let id = api.submit(&small(&name("history"), 1)).await.id;
    cases::start(&log, &id, "w").await;
    cases::succeed(&log, &id).await.expect("nobody else writes");
    // The entry is a work item too, and goes with the task's end; `started` is history.
    let has_start = || async {
        let history = log.history(&id).await.expect("the log answers");
        history.iter().any(|event| event.event == Event::Started)
    };
    spotreel_tests::harness::always(
        "history waits for notifier",
        Duration::from_secs(5),
        has_start,
    )
    .await;
    system.notifier.begin();
    eventually("history goes once notifier has it", SOON, || async {
        (!has_start().await).then_some(())
    })
    .await;
    assert_eq!(
        cases::last(&log, &id).await.event,
        Event::Succeeded,
        "the end stays"
    );
    let provision = system.nats.client("provision").await;
    let events = async_nats::jetstream::new(provision)
        .get_stream(EVENTS)
        .await
        .expect("it is there");
    let told = events
        .get_last_raw_message_by_subject(&names::event_of(&id, "started"))
        .await;
    assert!(told.is_ok(), "no event was skipped");
}

// A18: nobody writes `expired` when no worker is there to pull.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_expires_at_its_deadline_without_workers() {
    let system = services().await;
    let api = system.api().await;
    let id = name("deadline");
    let mut task = small(&id, 1);
    let at = ambient::now()
        .saturating_add(Duration::from_secs(3))
        .expect("within bounds");
    task["expires_at"] = json!(at);
    api.submit(&task).await;
    let ended = api.until(&id, "expired", SOON).await;
    assert!(ended.at >= at, "not before its deadline");
    let client = system.nats.client("provision").await;
    eventually("its entry is gone", SOON, || async {
        let found = cases::counts(&client, Model::T2vA14b, Priority::Normal).await;
        (found == (0, 0)).then_some(())
    })
    .await;
}
