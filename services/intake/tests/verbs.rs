//! The verbs, as a client sees them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use std::collections::HashSet;
use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use spotreel_bus::log::Append;
use spotreel_domain::task::{Event, Failure, FailureKind};
use spotreel_domain::{Lane, Model, TaskId};
use stage::{Stage, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn fox() -> Value {
    json!({"model": "ti2v-5B", "prompt": "a red fox in the snow"})
}

fn named(id: &str) -> Value {
    json!({"model": "ti2v-5B", "prompt": "a red fox in the snow", "id": id})
}

/// What `queue` holds for workers.
async fn work(stage: &Stage) -> u64 {
    let context = async_nats::jetstream::new(stage.root.clone());
    let stream = context.get_stream_no_info("TASKS").await.unwrap();
    let mut work = 0;
    for lane in Lane::ALL {
        let name = spotreel_bus::names::work_consumer(Model::Ti2v5b, lane);
        let info = stream.consumer_info(&name).await.unwrap();
        work += info.num_pending + info.num_ack_pending as u64;
    }
    work
}

/// A relay to the NATS server that holds back for a moment what is said to it. Returns its address.
async fn slow_relay(url: &str) -> String {
    const HELD: Duration = Duration::from_millis(50);
    let server = url.strip_prefix("nats://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let ((mut said, mut heard), (mut answers, mut to)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut heard).await });
            tokio::spawn(async move {
                let mut held = vec![0; 1 << 16];
                while let Ok(length @ 1..) = said.read(&mut held).await {
                    tokio::time::sleep(HELD).await;
                    if to.write_all(&held[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("nats://{address}")
}

/// Also when its subscriptions reach the server late. It asks once: other tests ask again where nobody has subscribed yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_started_intake_has_subscribed() {
    let mut stage = Stage::without_intake().await;
    stage.url = slow_relay(&stage.url).await;
    stage.start_intake(&[]).await;
    let nobody = json!({"id": "nobody"}).to_string();
    let asked = stage.client.request("spotreel.retry", nobody.into()).await;
    let answer: Value = serde_json::from_slice(&asked.unwrap().payload).unwrap();
    assert_eq!(answer["error"]["code"], "not_found", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_round() {
    let stage = Stage::set().await;
    let accepted = stage.submit(&fox()).await;
    let id = accepted["id"].as_str().unwrap().to_owned();
    assert!(accepted["seed"].as_u64().unwrap() < 1 << 53);
    let seen = stage.ask("get", json!({"id": id}).to_string()).await;
    assert_eq!(
        (&seen["state"], &seen["seed"]),
        (&json!("queued"), &accepted["seed"])
    );
    assert_eq!(seen["submitted_at"], accepted["submitted_at"]);
    let mut hints = stage
        .root
        .subscribe(format!("spotreel.hint.{id}"))
        .await
        .unwrap();
    // Asked on the same connection: with the answer, the server knows that we listen.
    assert_eq!(work(&stage).await, 1);
    let cancelled = stage.ask("cancel", json!({"id": id}).to_string()).await;
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(work(&stage).await, 0);
    tokio::time::timeout(Duration::from_secs(5), hints.next())
        .await
        .unwrap()
        .unwrap();
    let again = stage.ask("cancel", json!({"id": id}).to_string()).await;
    assert_eq!(again, cancelled);

    let retried = stage.ask("retry", json!({"id": id}).to_string()).await;
    assert_eq!(
        (&retried["state"], &retried["round"]),
        (&json!("queued"), &json!(2))
    );
    assert_eq!(work(&stage).await, 1);
    let refused = stage.ask("retry", json!({"id": id}).to_string()).await;
    assert_eq!(refused["error"]["code"], "not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_retried_and_its_old_entry_goes() {
    let stage = Stage::set().await;
    stage.submit(&named("t")).await;
    let id = TaskId::parse("t").unwrap();
    let now = spotreel_bootstrap::ambient::now();
    let op = spotreel_bootstrap::ambient::uuid_v4;
    let queued = stage.log.last(&id).await.unwrap().unwrap();
    let step = queued.task.started("w", "i", 0, now).unwrap();
    let sequence = stage
        .log
        .append(&Append::new(step.clone(), queued.sequence, op()))
        .await
        .unwrap();
    let error = Failure {
        kind: FailureKind::Invalid,
        message: "it broke".into(),
    };
    let failed = step
        .1
        .placed_at(sequence, Event::Started)
        .attempt_failed(error, now)
        .unwrap();
    stage
        .log
        .append(&Append::new(failed, sequence, op()))
        .await
        .unwrap();
    let refused = stage.ask("cancel", r#"{"id":"t"}"#).await;
    assert_eq!(refused["error"]["code"], "not_allowed", "{refused}");
    let retried = stage.ask("retry", r#"{"id":"t"}"#).await;
    assert_eq!(
        (&retried["round"], &retried["failures"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        work(&stage).await,
        1,
        "the entry of the first round is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_submission_gets_the_same_answer() {
    let stage = Stage::set().await;
    let key = json!({"model": "ti2v-5B", "prompt": "x", "idempotency_key": "order 17"});
    let first = stage.submit(&key).await;
    assert_eq!(stage.submit(&key).await, first);
    let mut other = key.clone();
    other["prompt"] = json!("y");
    assert_eq!(stage.submit(&other).await["error"]["code"], "conflict");
    assert_eq!(stage.messages().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_many_times_at_once_is_one_task() {
    let stage = Stage::set().await;
    let payload = named("twin").to_string();
    let answers: Vec<Value> =
        futures::future::join_all((0..64).map(|_| stage.ask("submit", payload.clone()))).await;
    let distinct: HashSet<String> = answers.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), 1, "{distinct:?}");
    assert_eq!(stage.messages().await, 1);

    let other = json!({"model": "ti2v-5B", "prompt": "y", "id": "other"});
    let list = json!([
        named("a"),
        named("a"),
        other,
        named("other"),
        named("a"),
        fox()
    ]);
    let answer = stage.submit(&list).await;
    assert_eq!(answer["results"][0], answer["results"][1]);
    assert_eq!(answer["results"][0], answer["results"][4]);
    assert_eq!(
        (&answer["accepted"], &answer["refused"]),
        (&json!(5), &json!(1)),
        "{answer}"
    );
    assert_eq!(stage.messages().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_in_one_call() {
    let stage = Stage::set().await;
    let list: Vec<Value> = (0..10_000).map(|n| named(&format!("t{n}"))).collect();
    let payload = json!(list).to_string();
    let began = std::time::Instant::now();
    let first = stage.ask("submit", payload.clone()).await;
    println!("10,000 tasks: {:?}", began.elapsed());
    assert_eq!(first["accepted"], 10_000, "{}", first["results"][0]);
    assert_eq!(stage.messages().await, 10_000);
    let began = std::time::Instant::now();
    assert_eq!(stage.ask("submit", payload).await, first);
    println!("the same again: {:?}", began.elapsed());
    assert_eq!(stage.messages().await, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_each_task_once_newest_first() {
    let stage = Stage::set().await;
    let list: Vec<Value> = (0..1_200).map(|n| named(&format!("t{n}"))).collect();
    stage.submit(&json!(list)).await;
    for n in [3, 700, 1_100] {
        stage
            .ask("cancel", json!({"id": format!("t{n}")}).to_string())
            .await;
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        let page = stage
            .ask("list", json!({"limit": 500, "cursor": cursor}).to_string())
            .await;
        let tasks = page["tasks"].as_array().unwrap();
        seen.extend(
            tasks
                .iter()
                .map(|task| task["id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (1_200, 3));
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 1_200);
    assert_eq!(seen[..3], ["t1100", "t700", "t3"]);
    let cancelled = stage.ask("list", r#"{"state":"cancelled"}"#).await;
    assert_eq!(cancelled["tasks"].as_array().unwrap().len(), 3);
    assert!(cancelled["next_cursor"].is_null());
    let other = stage.ask("list", r#"{"model":"t2v-A14B"}"#).await;
    assert_eq!(other, json!({"tasks": []}));
    assert_eq!(
        stage.ask("list", "").await["tasks"]
            .as_array()
            .unwrap()
            .len(),
        50
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_never_reaches_the_log() {
    let stage = Stage::set().await;
    stage.submit(&named("victim")).await;
    let forged = "spotreel.log.victim.succeeded";
    for from in [&stage.client, &stage.root] {
        let payload = named("forger").to_string();
        from.publish_with_reply("spotreel.submit", forged, payload.into())
            .await
            .unwrap();
        from.flush().await.unwrap();
    }
    let seen = stage.ask("get", r#"{"id":"victim"}"#).await;
    assert_eq!(seen["state"], "queued");
    let history = stage
        .log
        .history(&TaskId::parse("victim").unwrap())
        .await
        .unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(
        stage
            .log
            .scan("spotreel.log.>", 1, 100)
            .await
            .unwrap()
            .len() as u64,
        stage.messages().await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_stored_once_and_named_by_their_hash() {
    let stage = Stage::set().await;
    let png = stage::PICTURE;
    let task = json!({"model": "i2v-A14B", "prompt": "x", "image": {"base64": png}});
    let id = stage.submit(&task).await["id"].clone();
    let key = stage.ask("get", json!({"id": id}).to_string()).await["image"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(key.starts_with("images/") && key.ends_with(".png"), "{key}");
    assert!(stage.store.head(&key).await.unwrap().is_some());
    let by_key = json!({"model": "i2v-A14B", "prompt": "x", "image": {"s3_key": key}});
    assert!(stage.submit(&by_key).await["id"].is_string());
    assert!(stage.submit(&task).await["id"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_found_and_traces_go_on() {
    let stage = Stage::set().await;
    let operator = spotreel_test_kit::client(&stage.url, "operator").await;
    let found = operator
        .request("$SRV.INFO.spotreel-intake", "".into())
        .await
        .unwrap();
    let info: Value = serde_json::from_slice(&found.payload).unwrap();
    let mut subjects: Vec<_> = info["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    subjects.sort_unstable();
    assert_eq!(
        subjects,
        [
            "spotreel.cancel",
            "spotreel.get",
            "spotreel.list",
            "spotreel.ops.key.create",
            "spotreel.ops.key.list",
            "spotreel.ops.key.revoke",
            "spotreel.retry",
            "spotreel.submit"
        ]
    );
    assert_eq!(
        stage.request("submit", "{}", HeaderMap::new()).await.status,
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_is_told_with_the_numbers_that_it_stands_for() {
    let stage = Stage::set_with(&[("quality.fast", r#"["t2v-A14B"]"#)]).await;
    let tier = |model: &str, quality: &str| json!({"model": model, "prompt": "a fox", "id": quality, "quality": quality});
    let show = async |id: &str| stage.ask("get", json!({"id": id}).to_string()).await;
    let fast = tier("t2v-A14B", "fast");
    let first = stage.submit(&fast).await;
    assert_eq!(first["id"], "fast", "{first}");
    assert_eq!(stage.submit(&fast).await, first);
    let seen = show("fast").await;
    let numbers = [
        "quality",
        "steps",
        "guidance",
        "guidance_high_noise",
        "shift",
    ]
    .map(|key| &seen[key]);
    let wanted = [json!("fast"), json!(4), json!(1.0), json!(1.0), json!(5.0)];
    assert_eq!(numbers, wanted.each_ref());
    assert_eq!(stage.submit(&tier("ti2v-5B", "best")).await["id"], "best");
    assert_eq!(show("best").await["steps"], 60);

    // A model that nobody has distilled weights for; and a task that names no tier shows none.
    let refused = stage.submit(&tier("ti2v-5B", "fast")).await;
    assert_eq!(refused["error"]["violations"][0]["rule"], "offered");
    stage.submit(&named("plain")).await;
    assert_eq!(show("plain").await.get("quality"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_streams_it_is_not_ready_and_says_so() {
    let stage = Stage::without_intake().await;
    let context = async_nats::jetstream::new(stage.root.clone());
    context.delete_stream("INBOX").await.unwrap();
    let ready = async {
        let reason = || {
            stage
                .ctx
                .health
                .readiness()
                .checks
                .get("nats")
                .and_then(|check| check.reason.clone())
        };
        until("it names what is missing", || async {
            reason().is_some_and(|reason| reason.contains("consumer INBOX/intake is missing"))
        })
        .await;
        spotreel_bus::provision::apply(&stage.root, &Default::default())
            .await
            .unwrap();
    };
    tokio::join!(stage.start_intake(&[]), ready);
    until("ready", || async { stage.ctx.health.readiness().ready }).await;
    assert!(stage.submit(&fox()).await["id"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_after_its_deadline_is_the_first_answer() {
    let stage = Stage::set().await;
    let deadline = |ms: i64| {
        let at = spotreel_bootstrap::ambient::now();
        jiff::Timestamp::from_millisecond(at.as_millisecond() + ms).unwrap()
    };
    let due = deadline(2_000);
    let task = json!({"model": "ti2v-5B", "prompt": "x", "id": "t", "expires_at": due});
    let first = stage.submit(&task).await;
    assert_eq!(first["id"], "t", "{first}");
    until("the deadline has passed", || async {
        spotreel_bootstrap::ambient::now() > due
    })
    .await;
    assert_eq!(stage.submit(&task).await, first);
    // A deadline that is said as a time from now is another one each time.
    let mut later = task.clone();
    later["expires_at"] = json!(deadline(3_600_000));
    assert_eq!(stage.submit(&later).await, first);
    // What was never accepted is refused for its deadline.
    let mut other = task.clone();
    other["id"] = json!("u");
    let refused = stage.submit(&other).await;
    assert_eq!(refused["error"]["violations"][0]["field"], "expires_at");
    assert_eq!(stage.messages().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_by_now_was_accepted_once_and_is_answered_again() {
    let stage = Stage::without_intake().await;
    let asked = json!({"model": "ti2v-5B", "prompt": "x", "id": "t", "quality": "fast"});
    let request: spotreel_api::TaskRequest = serde_json::from_value(asked.clone()).unwrap();
    let now = spotreel_bootstrap::ambient::now();
    let mut valid = request.validate(now).unwrap();
    // As a version with other defaults wrote it.
    valid.spec.frames = 5;
    let id = TaskId::parse("t").unwrap();
    let mut step = spotreel_domain::Task::submit(id, valid.spec, "another".into(), now);
    step.1.request_digest = request.digest();
    let op = spotreel_bootstrap::ambient::uuid_v4();
    stage.log.append(&Append::new(step, 0, op)).await.unwrap();
    // No model has the weights for `fast` here.
    stage.start_intake(&[]).await;
    let again = stage.submit(&asked).await;
    assert_eq!(again["id"], "t", "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_names_the_fields_that_differ() {
    let stage = Stage::set().await;
    stage.submit(&named("t")).await;
    let mut other = named("t");
    other["prompt"] = json!("a blue fox");
    other["steps"] = json!(7);
    let error = &stage.submit(&other).await["error"];
    assert_eq!(error["code"], "conflict");
    let fields = error["violations"].as_array().unwrap().iter();
    let fields: Vec<_> = fields.map(|broken| &broken["field"]).collect();
    assert_eq!(fields, ["prompt", "steps"]);
    assert!(error["message"].as_str().unwrap().contains("prompt, steps"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_the_id_of_an_ended_task_says_so() {
    let stage = Stage::set().await;
    assert_eq!(stage.submit(&named("t")).await["state"], "queued");
    stage.ask("cancel", json!({"id": "t"}).to_string()).await;
    assert_eq!(stage.submit(&named("t")).await["state"], "cancelled");
}

fn labelled(id: usize, batch: &str) -> Value {
    json!({"model": "ti2v-5B", "prompt": "a fox", "id": format!("{batch}-{id}"), "labels": {"batch": batch, "odd=": "x"}})
}

fn ids(list: &Value) -> Vec<String> {
    let of = |task: &Value| task["id"].as_str().unwrap().to_owned();
    list["tasks"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_are_cancelled_in_one_call() {
    let stage = Stage::set().await;
    let tasks: Vec<_> = (0..60)
        .map(|id| labelled(id, "day"))
        .chain((0..7).map(|id| labelled(id, "night")))
        .collect();
    assert_eq!(stage.submit(&json!(tasks)).await["accepted"], 67);

    let listed = stage.ask("list", json!({"label": "batch=night"}).to_string());
    assert_eq!(ids(&listed.await).len(), 7);
    let any = json!({"label": "batch", "limit": 500}).to_string();
    assert_eq!(ids(&stage.ask("list", any).await).len(), 67);
    for (label, some) in [("odd==x", true), ("batch=nig", false), ("bat", false)] {
        let list = stage.ask("list", json!({"label": label}).to_string()).await;
        assert_eq!(!ids(&list).is_empty(), some, "{label}");
    }
    let nobody = stage.ask("list", r#"{"owner":"anna"}"#).await;
    assert_eq!(ids(&nobody), [""; 0]);

    // Nothing is cancelled by a call that names all tasks, or tasks that have ended.
    for refused in [
        json!({}),
        json!({"limit": 5}),
        json!({"since": "2026-01-01T00:00:00Z"}),
        json!({"lable": "batch=day"}),
        json!({"state": "succeeded"}),
        json!({"label": ""}),
        json!({"owner": "Anna!"}),
        json!({"id": "day-1", "label": "batch=day"}),
    ] {
        let answer = stage.ask("cancel", refused.to_string()).await;
        assert_eq!(answer["error"]["code"], "invalid", "{refused}: {answer}");
    }
    assert_eq!(work(&stage).await, 67);

    // A page of them, and then the rest from where it ended.
    let mut query = json!({"label": "batch=day", "state": "queued", "limit": 25});
    let mut taken = HashSet::new();
    let mut calls = 0;
    loop {
        let page = stage.ask("cancel", query.to_string()).await;
        let some: Vec<String> = serde_json::from_value(page["ids"].clone()).unwrap();
        assert_eq!(page["cancelled"], some.len());
        assert!(some.len() <= 25);
        taken.extend(some);
        calls += 1;
        match page.get("next_cursor") {
            Some(cursor) => query["cursor"] = cursor.clone(),
            None => break,
        }
    }
    assert_eq!((taken.len(), calls), (60, 3));
    assert_eq!(work(&stage).await, 7);
    let rest = stage.ask("cancel", r#"{"model":"ti2v-5B"}"#).await;
    assert_eq!(
        (&rest["cancelled"], rest.get("next_cursor")),
        (&json!(7), None)
    );
    assert_eq!(work(&stage).await, 0);
    let again = stage.ask("cancel", r#"{"model":"ti2v-5B"}"#).await;
    assert_eq!(again["cancelled"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_cut_by_time_and_by_the_beginning_of_an_id() {
    let stage = Stage::set().await;
    for (id, batch) in [(1, "day"), (2, "day"), (1, "night")] {
        stage.submit(&labelled(id, batch)).await;
    }
    let list = async |query: Value| ids(&stage.ask("list", query.to_string()).await);
    assert_eq!(list(json!({"id_prefix": "day-"})).await, ["day-2", "day-1"]);
    assert_eq!(list(json!({"id_prefix": "n"})).await, ["night-1"]);

    let stored = async |id: &str| {
        let last = stage.log.last(&TaskId::parse(id).unwrap()).await;
        last.unwrap().unwrap().stored_at
    };
    let since = stored("day-2").await;
    let fresh = list(json!({"since": since})).await;
    assert_eq!(fresh, ["night-1", "day-2"]);
    // A change makes a task fresh.
    stage.ask("cancel", r#"{"id":"day-1"}"#).await;
    let since = stored("day-1").await;
    assert_eq!(list(json!({"since": since})).await, ["day-1"]);
    let none = since
        .checked_add(jiff::SignedDuration::from_secs(60))
        .unwrap();
    assert_eq!(list(json!({"since": none})).await, [""; 0]);

    let web = web::Web::of(&stage);
    let page = web.get(&format!("/v1/tasks?since={since}")).await.json;
    assert_eq!(ids(&page), ["day-1"]);
    let page = web.get("/v1/tasks?id_prefix=day&limit=1").await;
    let link = page.headers["link"].to_str().unwrap();
    assert!(link.contains("id_prefix=day&"), "{link}");
    let bad = web.get("/v1/tasks?since=yesterday").await;
    bad.is_problem(400, "invalid");
    assert_eq!(bad.json["violations"][0]["field"], "since", "{}", bad.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_list_tell_how_far_a_render_is() {
    let stage = Stage::set().await;
    let web = web::Web::of(&stage);
    stage.submit(&named("t")).await;
    let id = TaskId::parse("t").unwrap();
    let now = spotreel_bootstrap::ambient::now();
    let op = spotreel_bootstrap::ambient::uuid_v4;
    let take = async |worker: &str| {
        let queued = stage.log.last(&id).await.unwrap().unwrap();
        let step = queued.task.started(worker, "i", 0, now).unwrap();
        let started = Append::new(step, queued.sequence, op());
        stage.log.append(&started).await.unwrap();
    };
    let get = async || stage.ask("get", r#"{"id":"t"}"#).await;
    let tell = async |worker: &str, step: u32| {
        let picture =
            json!({"step": 10, "url": "https://s/p.jpg", "url_expires_at": "2026-11-23T12:00:00Z"});
        let told = json!({"id": "t", "worker": worker, "phase": "denoise", "step": step, "steps": 50, "eta_s": 40.5,
            "preview_image": picture});
        let payload = told.to_string().into();
        stage
            .root
            .publish("spotreel.progress.t", payload)
            .await
            .unwrap();
    };

    assert_eq!(get().await.get("step"), None, "nobody renders it");
    take("w-1").await;
    for seen in [get().await, web.get("/v1/tasks/t").await.json] {
        assert_eq!(seen["worker"], "w-1");
        for name in ["step", "phase", "eta_s"] {
            assert_eq!(seen.get(name), Some(&Value::Null), "{name} of {seen}");
        }
    }
    tell("w-1", 12).await;
    until("get tells it", async || get().await["step"] == 12).await;
    let lists = [
        stage.ask("list", "").await["tasks"][0].clone(),
        web.get("/v1/tasks").await.json["tasks"][0].clone(),
    ];
    for seen in [get().await, web.get("/v1/tasks/t").await.json]
        .iter()
        .chain(&lists)
    {
        assert_eq!(
            [
                &seen["step"],
                &seen["steps"],
                &seen["phase"],
                &seen["eta_s"]
            ],
            [&json!(12), &json!(50), &json!("denoise"), &json!(40.5)]
        );
        assert_eq!(seen["preview_image"]["url"], "https://s/p.jpg");
    }

    // Another worker, which has lost the task and does not know it yet, is not believed.
    tell("w-0", 49).await;
    until("it is unknown", async || get().await["step"].is_null()).await;
    tell("w-1", 13).await;
    until("the next step tells it", async || get().await["step"] == 13).await;

    // What was told of an attempt is not told of the next one, by the same worker.
    let running = stage.log.last(&id).await.unwrap().unwrap();
    let back = running.task.interrupted(now).unwrap();
    let back = Append::new(back, running.sequence, op());
    stage.log.append(&back).await.unwrap();
    assert_eq!(get().await.get("step"), None);
    take("w-1").await;
    assert_eq!(get().await.get("step"), Some(&Value::Null));
}
