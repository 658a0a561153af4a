//! The whole system, from a submission to a video.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use sha2::{Digest, Sha256};
use spotreel_api::{CloudEvent, TaskView};
use spotreel_domain::task::AttemptOutcome;
use spotreel_domain::{Event, TaskId};
use spotreel_tests::harness::tasks::{name, small};
use spotreel_tests::harness::{Api, System, SystemOptions, eventually};

const SOON: Duration = Duration::from_secs(60);
/// 8 × 8 pixels of one red.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAAAAADmVT4XAAAAb0lEQVR42u3bsQ0AIAgAQTBO6RAO48RsoIUFzX1NwiXU5IreRgAAAAAAAAAAAAAAAAAAADQ3XwP7d8NxAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIB76cEBAAAAAAAAAAAAAAAAAKAbUBwkArWJu+lXAAAAAElFTkSuQmCC";

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_all_models_become_videos() {
    let system = System::start(SystemOptions {
        workers: 2,
        ..SystemOptions::default()
    })
    .await;
    let api = system.api().await;
    let mut ids = Vec::new();
    for task in [
        json!({ "model": "ti2v-5B", "prompt": "a red fox", "frames": 5, "steps": 2, "priority": "high" }),
        json!({ "model": "t2v-A14B", "prompt": "a red fox", "frames": 5, "steps": 2, "size": "832x480" }),
        json!({ "model": "i2v-A14B", "prompt": "a red fox", "frames": 5, "steps": 2, "size": "480x832",
                "image": { "base64": PICTURE } }),
    ] {
        ids.push(api.submit(&task).await.id);
    }
    for id in &ids {
        let task = finished(&system, &api, id.as_str()).await;
        let data = video(&task).await;
        assert_eq!(&data[4..8], b"ftyp", "it is an MP4");
        let told = &task.video.as_ref().expect("it succeeded").artifact;
        assert_eq!(
            (told.width, told.height),
            (task.spec.width, task.spec.height)
        );
        assert_eq!((told.frames, told.fps), (5, task.spec.fps));
    }
}

// One worker is frozen past its lease; another one takes its task; then the first one thaws and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_believed_dead_cannot_finish_its_task() {
    let options = SystemOptions {
        step_ms: 400,
        ..SystemOptions::default()
    };
    let mut system = System::start(options).await;
    let (api, id) = (system.api().await, name("frozen"));
    api.submit(&small(&id, 6)).await;
    api.until(&id, "started", SOON).await;
    system.workers[0].freeze();
    system.add_worker().await;
    eventually("the second worker has it", SOON, || async {
        api.get(&id)
            .await
            .filter(|task| task.worker.as_deref() == Some("w1"))
    })
    .await;
    system.workers[0].thaw();
    let task = finished(&system, &api, &id).await;
    video(&task).await;
    assert_eq!(ended_by(&task, AttemptOutcome::Succeeded), ["w1"]);
    let ends = count(&system, &id, |event| event.is_terminal()).await;
    assert_eq!(ends, 1, "one success, the late one was refused");
    // The late one lives, and takes the next task.
    let next = name("next");
    system.workers[1].kill9();
    api.submit(&small(&next, 1)).await;
    let task = finished(&system, &api, &next).await;
    assert_eq!(ended_by(&task, AttemptOutcome::Succeeded), ["w0"]);
}

// Three starts without a word are one failure, and the fourth failure is the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_workers_ends_and_the_next_one_is_rendered() {
    let options = SystemOptions {
        faults: true,
        worker_settings: vec![("retry.scale".into(), "0.01".into())],
        ..SystemOptions::default()
    };
    let mut system = System::start(options).await;
    let (api, id) = (system.api().await, name("poison"));
    let mut task = small(&id, 3);
    task["prompt"] = json!("{{kill_worker@1}}");
    api.submit(&task).await;
    let began = std::time::Instant::now();
    let ended = loop {
        system.revive_workers();
        match api.get(&id).await {
            Some(task) if task.state == "failed" => break task,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        assert!(
            began.elapsed() < SOON * 3,
            "it goes on and on\n{}",
            system.logs()
        );
    };
    assert_eq!(ended.attempts.len(), 12, "{:?}", ended.attempts);
    system.revive_workers();
    let good = name("good");
    api.submit(&small(&good, 1)).await;
    finished(&system, &api, &good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_task_goes_on_elsewhere_and_comes_out_the_same() {
    let options = SystemOptions {
        step_ms: 300,
        worker_settings: vec![
            // Too short for what is left of the render, long enough for a checkpoint.
            ("stop.finish_within".into(), "1s".into()),
            // Later than the stop: only what is saved at the stop can be gone on from.
            ("checkpoint.every_steps".into(), "1000".into()),
        ],
        ..SystemOptions::default()
    };
    let mut system = System::start(options).await;
    let (api, id, twin) = (system.api().await, name("interrupted"), name("twin"));
    let mut progress = api
        .client
        .subscribe(format!("spotreel.progress.{id}"))
        .await
        .expect("clients may listen");
    api.submit(&small(&id, 10)).await;
    wait_for_step(&mut progress, 4).await;
    let code = system.workers[0].stop(SOON).await;
    assert_eq!(code, Some(0), "it leaves in order\n{}", system.logs());
    let handed_back = api.get(&id).await.expect("it is there");
    assert_eq!(handed_back.state, "queued");
    assert_eq!(handed_back.failures, 0, "an interruption is no failure");
    system.add_worker().await;
    let task = finished(&system, &api, &id).await;
    assert_eq!(ended_by(&task, AttemptOutcome::Interrupted), ["w0"]);
    let resumed = task.attempts.last().expect("there are two");
    assert!(
        resumed.from_step >= 4,
        "it began at step {}",
        resumed.from_step
    );

    api.submit(&small(&twin, 10)).await;
    let whole = finished(&system, &api, &twin).await;
    assert_eq!(whole.attempts.len(), 1);
    assert_eq!(video(&task).await, video(&whole).await, "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_stops_its_engine() {
    let options = SystemOptions {
        step_ms: 500,
        lease: SOON,
        ..SystemOptions::default()
    };
    let system = System::start(options).await;
    let (api, id) = (system.api().await, name("cancelled"));
    api.submit(&small(&id, 60)).await;
    api.until(&id, "started", SOON).await;
    api.cancel(&id)
        .await
        .expect("a started task can be cancelled");
    // The lease of a minute would take a quarter of it; the hint takes no time. The next task needs the engine.
    let next = name("next");
    api.submit(&small(&next, 1)).await;
    let began = std::time::Instant::now();
    finished(&system, &api, &next).await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        began.elapsed()
    );
    let task = api.get(&id).await.expect("it is there");
    assert_eq!(task.state, "cancelled");
    assert_eq!(ended_by(&task, AttemptOutcome::Cancelled), ["w0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_where_a_worker_can_die_leads_to_one_video() {
    for point in [
        "after-lease",
        "after-checkpoint",
        "after-upload",
        "after-succeeded",
    ] {
        let options = SystemOptions {
            workers: 0,
            worker_settings: vec![("checkpoint.every_steps".into(), "1".into())],
            ..SystemOptions::default()
        };
        let mut system = System::start(options).await;
        let (api, id) = (system.api().await, name(point));
        let dying = system.worker_spec().env("SPOTREEL_CRASH_AT", point);
        let dying = system.add_worker_as(dying).await;
        api.submit(&small(&id, 3)).await;
        assert_eq!(
            system.workers[dying].left(SOON).await,
            None,
            "it dies at {point}"
        );
        system.add_worker().await;
        let task = finished(&system, &api, &id).await;
        video(&task).await;
        let successes = count(&system, &id, |event| *event == Event::Succeeded).await;
        assert_eq!(successes, 1, "{point}");
        let client = system.nats.client("provision").await;
        spotreel_tests::cases::until_counts(&client, (0, 0)).await;
    }
}

/// Number of these events in the task's history.
async fn count(system: &System, id: &str, counts: impl Fn(&Event) -> bool) -> usize {
    let log = system.log().await;
    let history = log.history(&task_id(id)).await;
    let history = history.expect("the log answers");
    history.iter().filter(|event| counts(&event.event)).count()
}

async fn finished(system: &System, api: &Api, id: &str) -> TaskView {
    let began = std::time::Instant::now();
    loop {
        match api.get(id).await {
            Some(task) if task.state == "succeeded" => return task,
            Some(task) if task.state == "failed" => {
                panic!("{id} failed: {:?}\n{}", task.error, system.logs())
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        assert!(
            began.elapsed() < SOON,
            "{id} takes too long\n{}",
            system.logs()
        );
    }
}

// A16: the link in a stored event dies, at the latest after seven days. Whoever reads it later asks for a fresh one.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_has_died_is_replaced_by_asking() {
    let system = System::start(SystemOptions {
        workers: 1,
        environment: vec![("SPOTREEL_NOTIFIER_LINK_EXPIRES".into(), "1s".into())],
        ..SystemOptions::default()
    })
    .await;
    let api = system.api().await;
    let id = name("link");
    let mut events = api
        .client
        .subscribe(format!("spotreel.task.{id}.succeeded"))
        .await
        .expect("clients may listen");
    api.submit(&small(&id, 2)).await;
    let event = tokio::time::timeout(SOON, events.next())
        .await
        .expect("it is told")
        .expect("an event");
    let event: CloudEvent<TaskView> =
        serde_json::from_slice(&event.payload).expect("an event is JSON");
    let told = event
        .data
        .video
        .and_then(|video| video.url)
        .expect("a success has a link");
    eventually("the link has died", SOON, || {
        let told = told.clone();
        async move {
            let answer = reqwest::get(told).await.expect("S3 answers");
            (answer.status() == reqwest::StatusCode::FORBIDDEN).then_some(())
        }
    })
    .await;
    let task = api.get(&id).await.expect("it is known");
    assert_eq!(&video(&task).await[4..8], b"ftyp", "the fresh link works");
}

/// The bytes behind the link of a `get`, as long and with the hash that was promised.
async fn video(task: &TaskView) -> Vec<u8> {
    let video = task.video.as_ref().expect("a finished task has a video");
    let url = video.url.as_ref().expect("with a link");
    let answer = reqwest::get(url).await.expect("the store answers");
    assert!(
        answer.status().is_success(),
        "the link of {} gives {}",
        task.id,
        answer.status()
    );
    let data = answer.bytes().await.expect("the video arrives").to_vec();
    assert_eq!(data.len() as u64, video.artifact.bytes);
    assert_eq!(hex::encode(Sha256::digest(&data)), video.artifact.sha256);
    data
}

async fn wait_for_step(progress: &mut async_nats::Subscriber, step: u64) {
    use futures::StreamExt;
    let reached = async {
        while let Some(message) = progress.next().await {
            let said: serde_json::Value =
                serde_json::from_slice(&message.payload).expect("progress is JSON");
            if said["step"].as_u64() >= Some(step) {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, reached)
        .await
        .expect("the render goes on");
}

fn ended_by(task: &TaskView, outcome: AttemptOutcome) -> Vec<&str> {
    let matching = task
        .attempts
        .iter()
        .filter(|attempt| attempt.outcome == outcome);
    matching.map(|attempt| attempt.worker.as_str()).collect()
}

fn task_id(id: &str) -> TaskId {
    TaskId::parse(id).expect("the tests' names are tokens")
}
