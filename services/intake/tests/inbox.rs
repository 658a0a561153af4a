//! Submissions by publish.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use std::collections::HashSet;

use async_nats::jetstream;
use serde_json::{Value, json};
use spotreel_bus::names::{EVENTS, INBOX, LOG_ALL};
use spotreel_domain::{Model, TaskId};
use stage::{Stage, until};

async fn publish(stage: &Stage, payload: &Value) {
    let ack = stage
        .client
        .request("spotreel.inbox", payload.to_string().into())
        .await
        .unwrap();
    let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
    assert_eq!(ack["stream"], INBOX, "{ack}");
}

async fn event(stage: &Stage, subject: &str) -> Value {
    let context = jetstream::new(stage.root.clone());
    let stream = context.get_stream_no_info(EVENTS).await.unwrap();
    let message = stream
        .get_last_raw_message_by_subject(subject)
        .await
        .unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

async fn emptied(stage: &Stage) {
    until("the inbox is empty", || async {
        stage.stream(INBOX).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_intake_ran_is_taken() {
    let stage = Stage::without_intake().await;
    publish(
        &stage,
        &json!({"model": "ti2v-5B", "prompt": "x", "id": "mine"}),
    )
    .await;
    publish(&stage, &json!({"model": "ti2v-5B", "prompt": "x"})).await;
    publish(
        &stage,
        &json!([{"model": "ti2v-5B", "prompt": "x"}, {"model": "ti2v-5B", "prompt": "x"}]),
    )
    .await;
    stage.start_intake(&[]).await;
    emptied(&stage).await;
    assert_eq!(stage.messages().await, 4);
    assert!(
        stage
            .log
            .last(&TaskId::parse("mine").unwrap())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_again_it_is_the_same_task() {
    let stage = Stage::without_intake().await;
    publish(&stage, &json!({"model": "ti2v-5B", "prompt": "x"})).await;
    let context = jetstream::new(stage.root.clone());
    let stream = context.get_stream_no_info(INBOX).await.unwrap();
    let stored = stream.get_raw_message(1).await.unwrap();
    let id = TaskId::from_inbox(INBOX, 1, stored.time.unix_timestamp_nanos(), 0);
    // As an intake that died between the task's first event and its ack: the task is there, the message too.
    let queue = spotreel_bus::Queue::open(&stage.root, INBOX, "intake")
        .await
        .unwrap();
    let taken = queue.pull_within(1, 1 << 20).await.unwrap();
    assert_eq!(taken[0].stored_nanos, stored.time.unix_timestamp_nanos());
    let request = spotreel_api::TaskRequest {
        prompt: "x".into(),
        ..spotreel_test_kit::tasks::request(Model::Ti2v5b)
    };
    let logs = stage.logs().await;
    logs.submit_as(&id.to_string(), &request, |_| {}).await;
    taken[0].nak(std::time::Duration::ZERO).await.unwrap();
    stage.start_intake(&[]).await;
    emptied(&stage).await;
    let all = stage.log.scan(LOG_ALL, 1, 10).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].task.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_event() {
    let stage = Stage::set().await;
    publish(
        &stage,
        &json!({"model": "wan", "prompt": "x", "id": "mine"}),
    )
    .await;
    emptied(&stage).await;
    publish(&stage, &json!({"modle": 1})).await;
    emptied(&stage).await;
    publish(
        &stage,
        &json!([{"model": "ti2v-5B", "prompt": "x"}, {"model": "wan"}, 7]),
    )
    .await;
    emptied(&stage).await;
    let mine = event(&stage, "spotreel.task.mine.rejected").await;
    assert_eq!(mine["type"], "io.spotreel.task.rejected.v1");
    assert_eq!(mine["data"]["id"], "mine");
    assert_eq!(mine["data"]["error"]["violations"][0]["field"], "model");
    let nameless = event(&stage, "spotreel.rejected.2").await;
    assert_eq!(nameless["data"]["error"]["violations"][0]["field"], "modle");
    assert_eq!(nameless["data"]["inbox_sequence"], 2);
    let list = event(&stage, "spotreel.rejected.3").await;
    let fields: HashSet<_> = list["data"]["error"]["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|broken| broken["field"].as_str().unwrap())
        .collect();
    assert!(
        fields.contains("[1].model") && fields.contains("[2].body"),
        "{fields:?}"
    );
    assert_eq!(stage.messages().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_list_names_64_broken_rules_at_most() {
    let stage = Stage::set().await;
    let list: Vec<_> = (0..100).map(|_| json!({"model": "wan"})).collect();
    publish(&stage, &json!(list)).await;
    emptied(&stage).await;
    let event = event(&stage, "spotreel.rejected.1").await;
    let violations = event["data"]["error"]["violations"].as_array().unwrap();
    assert_eq!(violations.len(), spotreel_api::MAX_VIOLATIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_largest_size_are_taken_one_after_the_other() {
    // Room for one of them at a time.
    let stage = Stage::set_with(&[("inbox.memory_mib", "9")]).await;
    let filler = " ".repeat((8 << 20) - 200);
    for n in 0..4 {
        let task = json!({"model": "ti2v-5B", "prompt": "x", "id": format!("t{n}")});
        let sent = stage
            .client
            .request("spotreel.inbox", format!("{task}{filler}").into());
        let ack: Value = serde_json::from_slice(&sent.await.unwrap().payload).unwrap();
        assert_eq!(ack["seq"], n + 1, "{ack}");
    }
    emptied(&stage).await;
    assert_eq!(stage.messages().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_holds_the_inbox_and_loses_nothing() {
    let stage = Stage::set_with(&[("limits.max_queued", "2"), ("limits.poll", "100ms")]).await;
    for n in 0..3 {
        publish(
            &stage,
            &json!({"model": "ti2v-5B", "prompt": "x", "id": format!("t{n}")}),
        )
        .await;
    }
    until("one is left in the inbox", || async {
        stage.messages().await == 2 && stage.stream(INBOX).await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_id_names_the_task_for_good() {
    let stage = Stage::set().await;
    let send = async |payload: Value| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "order-17");
        let body = payload.to_string().into();
        let sent = stage
            .client
            .request_with_headers("spotreel.inbox", headers, body);
        sent.await.unwrap();
        emptied(&stage).await;
        // The server compares ids within a window only; without its memory, the message is stored again.
        let context = jetstream::new(stage.root.clone());
        let mut config = context
            .get_stream(INBOX)
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        config.duplicate_window = std::time::Duration::from_millis(100);
        context.update_stream(config).await.unwrap();
    };
    let fox = json!({"model": "ti2v-5B", "prompt": "x"});
    send(fox.clone()).await;
    until("the server has forgotten the id", || async {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "order-17");
        let sent =
            stage
                .client
                .request_with_headers("spotreel.inbox", headers, fox.to_string().into());
        let ack: Value = serde_json::from_slice(&sent.await.unwrap().payload).unwrap();
        ack["duplicate"] != true
    })
    .await;
    emptied(&stage).await;
    assert_eq!(stage.messages().await, 1);
    let id = TaskId::from_idempotency_key("order-17");
    assert!(stage.log.last(&id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_into_the_inbox_make_no_events() {
    let stage = Stage::set().await;
    publish(&stage, &json!({"prompt": "x"})).await;
    emptied(&stage).await;
    let rejected = stage.stream(EVENTS).await;
    assert_eq!(rejected, 1);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/cloudevents+json");
    let payload = event(&stage, "spotreel.rejected.1").await.to_string();
    stage
        .client
        .request_with_headers("spotreel.inbox", headers, payload.into())
        .await
        .unwrap();
    emptied(&stage).await;
    assert_eq!(stage.stream(EVENTS).await, rejected);
}
