//! Alarms against a real server: monitors that are killed at every point, events that clients hear once, budgets that stop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod budget;
mod scene;

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::service::ServiceExt;
use futures::StreamExt;
use serde_json::{Value, json};
use spotreel_bootstrap::ambient;
use spotreel_bus::kv;
use spotreel_bus::names::{CONSUMER_NOTIFIER, TASKS};
use spotreel_domain::Model;
use spotreel_domain::alarm::AlarmName;
use spotreel_domain::batch::{Batch, Blocked, BlockedBy, InstanceState};
use spotreel_domain::time::elapsed;
use spotreel_monitor::CRASH_POINTS;
use spotreel_proto::worker::v1::Presence;
use spotreel_test_kit::{ask, pool, spot_instance, stop, until};

use scene::{Scene, once};

/// Longest wait of a pull.
const PULL: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_alarm_is_heard_once_when_it_fires_and_once_when_it_resolves() {
    let scene = Scene::set().await;
    let client = scene.nats.client("client").await;
    let mut heard = client.subscribe("spotreel.alarm.>").await.unwrap();
    client.flush().await.unwrap();
    let (first, second) = tokio::join!(scene.monitor(&[]), scene.monitor(&[]));
    until("monitors have looked", async || {
        scene.board().await.is_some()
    })
    .await;
    scene.interrupt().await;
    let event = heard.next().await.unwrap();
    assert_eq!(
        event.subject.as_str(),
        "spotreel.alarm.interruptions.firing"
    );
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(event["type"], "io.spotreel.alarm.firing.v1");
    let sentence = event["data"]["sentence"].as_str().unwrap();
    let instance = "i-9 (g6.xlarge in us-east-2a) of default-1";
    assert!(sentence.ends_with(instance), "{sentence}");

    let shown = ask(&client, "spotreel.alarms", &json!({ "firing": true })).await;
    let names: Vec<_> = shown["alarms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["name"])
        .collect();
    assert!(names.is_empty() || names == ["interruptions"], "{shown}");

    let event = heard.next().await.unwrap();
    assert_eq!(
        event.subject.as_str(),
        "spotreel.alarm.interruptions.resolved"
    );
    assert_eq!(
        scene.states().await,
        [("interruptions".to_owned(), once())].into()
    );
    let shown = ask(&client, "spotreel.alarms", &json!({})).await;
    assert_eq!(shown["alarms"][0]["name"], "interruptions", "{shown}");
    until("nothing is left to tell", async || {
        let board = scene.board().await.unwrap();
        board.untold.is_empty() && board.firing().count() == 0
    })
    .await;
    stop(&first).await;
    stop(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_monitor_that_is_killed_at_any_point_repeats_nothing_and_loses_nothing() {
    let scene = Scene::set().await;
    // It knows what has been looked at before.
    let ctx = scene.monitor(&[]).await;
    until("a monitor has looked", async || {
        scene.board().await.is_some()
    })
    .await;
    stop(&ctx).await;
    scene.interrupt().await;
    for point in CRASH_POINTS {
        let mut monitor = scene.dying(point);
        assert_eq!(monitor.left().await, None, "it was to be killed at {point}");
    }
    // The third has told, and died before it noted so.
    let states = scene.states().await;
    assert_eq!(states["interruptions"], ["firing"], "{states:?}");
    let ctx = scene.monitor(&[]).await;
    until("it is over", async || {
        scene.states().await.get("interruptions").map(Vec::len) == Some(2)
    })
    .await;
    stop(&ctx).await;
    assert_eq!(scene.states().await["interruptions"], once());
    let told = scene.told().await;
    let ids: std::collections::BTreeSet<_> = told
        .iter()
        .map(|event| &event["id"])
        .map(Value::to_string)
        .collect();
    assert_eq!(ids.len(), told.len());
}

/// A backlog of two tasks for four seconds.
const SMALL_BACKLOG: [(&str, &str); 3] = [
    ("alarms.backlog.above", "2"),
    ("alarms.backlog.mean_over", "3s"),
    ("alarms.backlog.hold", "4s"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backlog_is_told_once_it_has_lasted_and_when_it_is_worked_off() {
    let scene = Scene::set().await;
    let began = ambient::now();
    let tasks = [1, 2, 3].map(|number| format!("task-{number}"));
    for id in &tasks {
        scene.logs.submit(id).await;
    }
    let first = scene.monitor(&SMALL_BACKLOG).await;
    let state = async || {
        let board = scene.board().await?;
        let alarm = board
            .alarms
            .into_iter()
            .find(|alarm| alarm.name == AlarmName::Backlog)?;
        Some(alarm.state.as_str())
    };
    until("it is pending", async || state().await == Some("pending")).await;
    // The next one goes on from there.
    stop(&first).await;
    assert!(scene.told().await.is_empty());
    let second = scene.monitor(&SMALL_BACKLOG).await;
    until("it fires", async || state().await == Some("firing")).await;
    assert!(elapsed(began, ambient::now()) >= Duration::from_secs(4));
    for id in &tasks {
        let task = scene.logs.last(id).await;
        scene.logs.cancelled(&task).await;
    }
    until("it is over", async || {
        scene.states().await.get("backlog").map(Vec::len) == Some(2)
    })
    .await;
    stop(&second).await;
    assert_eq!(
        scene.states().await,
        [("backlog".to_owned(), once())].into()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn failed_tasks_and_a_blocked_batch_are_told_with_their_reasons() {
    let scene = Scene::set().await;
    let ctx = scene.monitor(&[]).await;
    until("a monitor has looked", async || {
        scene.board().await.is_some()
    })
    .await;
    let task = scene.logs.submit("fox-1").await;
    let task = scene.logs.started(&task).await;
    scene.logs.failed(&task).await;
    let name = pool("default");
    let blocked = Blocked {
        by: BlockedBy::Quota,
        sentence: "the quota of 8 vCPUs is used up".to_owned(),
        since: ambient::now(),
    };
    scene
        .logs
        .update(&name, |batch| batch.blocked = Some(blocked))
        .await;
    until("both are told", async || scene.states().await.len() == 2).await;
    scene.logs.update(&name, |batch| batch.blocked = None).await;
    until("both are over", async || {
        scene
            .states()
            .await
            .values()
            .all(|states| states.len() == 2)
    })
    .await;
    stop(&ctx).await;
    let states = scene.states().await;
    assert_eq!(
        states.keys().collect::<Vec<_>>(),
        ["batch_blocked default", "tasks_failed"]
    );
    let told = scene.told().await;
    let sentence = |name| {
        let of = told
            .iter()
            .find(|event| event["data"]["name"] == name)
            .unwrap();
        of["data"]["sentence"].as_str().unwrap()
    };
    assert!(
        sentence("tasks_failed").ends_with("fox-1: no"),
        "{}",
        sentence("tasks_failed")
    );
    assert!(sentence("batch_blocked").contains("8 vCPUs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_program_that_falls_silent_is_told_and_one_that_was_never_there_is_not() {
    let scene = Scene::set().await;
    let intake = scene.nats.client("intake").await;
    let offer = async || {
        let offered = intake.service_builder().start("spotreel-intake", "1.0.0");
        offered.await.unwrap()
    };
    let service = offer().await;
    let silence = [
        ("alarms.service_silent.on", "true"),
        ("alarms.service_silent.hold", "300ms"),
        ("alarms.service_silent.programs", "[\"intake\", \"fleet\"]"),
    ];
    let ctx = scene.monitor(&silence).await;
    until("it was seen", async || {
        let board = scene.board().await;
        board.is_some_and(|board| board.programs.contains("intake"))
    })
    .await;
    service.stop().await.unwrap();
    let told = async |times| {
        let states = scene.states().await;
        states.get("service_silent intake").map(Vec::len) == Some(times)
    };
    until("its silence is told", async || told(1).await).await;
    let _again = offer().await;
    until("it is over", async || told(2).await).await;
    stop(&ctx).await;
    let states = scene.states().await;
    assert_eq!(
        states,
        [("service_silent intake".to_owned(), once())].into()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_notifier_that_answers_but_pulls_no_events_is_silent() {
    let scene = Scene::set().await;
    let notifier = scene.nats.client("notifier").await;
    let service = notifier
        .service_builder()
        .start("spotreel-notifier", "1.0.0");
    let _service = service.await.unwrap();
    let context = async_nats::jetstream::new(notifier);
    let events: PullConsumer = context
        .get_consumer_from_stream(CONSUMER_NOTIFIER, TASKS)
        .await
        .unwrap();
    let pulling = tokio::spawn(async move {
        loop {
            let pull = events.fetch().max_messages(1).expires(PULL).messages();
            let mut messages = pull.await.unwrap();
            while messages.next().await.is_some() {}
        }
    });
    let silence = [
        ("alarms.service_silent.on", "true"),
        ("alarms.service_silent.hold", "300ms"),
        ("alarms.service_silent.programs", "[\"notifier\"]"),
    ];
    let ctx = scene.monitor(&silence).await;
    until("it was seen", async || {
        let board = scene.board().await;
        board.is_some_and(|board| board.programs.contains("notifier"))
    })
    .await;
    pulling.abort();
    until("its silence is told", async || {
        let states = scene.states().await;
        states.contains_key("service_silent notifier")
    })
    .await;
    stop(&ctx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn instances_that_work_for_nothing_or_never_serve_are_told() {
    let scene = Scene::set().await;
    let (logs, name) = (&scene.logs, pool("default"));
    let mut instance = spot_instance("i-1", "g6.xlarge", ambient::now());
    instance.state = InstanceState::Serving;
    logs.update(&name, |batch| batch.instances = vec![instance])
        .await;
    let task = logs.submit("fox-1").await;
    let presence = Presence {
        worker: "w1".into(),
        instance: "i-1".into(),
        pool: "default".into(),
        models: vec![Model::Ti2v5b.as_str().into()],
        ..Presence::default()
    };
    kv::put_presence(&logs.client, &presence).await.unwrap();
    let eager = [
        ("alarms.nothing_succeeds.on", "true"),
        ("alarms.nothing_succeeds.hold", "300ms"),
    ];
    let ctx = scene.monitor(&eager).await;
    let told =
        async |alarm: &str, times| scene.states().await.get(alarm).map(Vec::len) == Some(times);
    let fruitless = "nothing_succeeds default";
    until("it is told", async || told(fruitless, 1).await).await;
    let task = logs.started(&task).await;
    logs.succeeded(&task, "renders/fox-1/1/2.mp4").await;
    until("a success ends it", async || told(fruitless, 2).await).await;

    let blocked = Blocked {
        by: BlockedBy::NeverServed,
        sentence: "3 machines in a row ended before they served".to_owned(),
        since: ambient::now(),
    };
    let opened = |batch: &mut Batch| {
        (batch.breaker.pauses, batch.blocked) = (1, Some(blocked));
    };
    logs.update(&name, opened).await;
    until("the breaker is told", async || {
        told("breaker_open default", 1).await
    })
    .await;
    let closed = |batch: &mut Batch| {
        (batch.breaker.pauses, batch.blocked) = (0, None);
    };
    logs.update(&name, closed).await;
    until("it is closed", async || {
        told("breaker_open default", 2).await
    })
    .await;
    stop(&ctx).await;
    assert_eq!(
        scene.states().await.len(),
        2,
        "the breaker is no blocked batch"
    );
}
