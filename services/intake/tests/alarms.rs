//! Alarms over HTTP, with monitor's part played by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use futures::StreamExt;
use serde_json::{Value, json};
use stage::{Stage, connect};
use web::Web;

fn backlog() -> Value {
    json!({
        "looked_at": "2026-11-30T10:00:00Z",
        "alarms": [{
            "name": "backlog", "state": "firing", "since": "2026-11-30T09:00:00Z", "fired_at": "2026-11-30T09:00:00Z",
            "sentence": "612 unfinished tasks", "what_to_do": "look at `spotreel why`"
        }]
    })
}

/// Answers for monitor, with monitor's rights, and gives what it was asked.
async fn monitor(stage: &Stage, answer: Value) -> tokio::sync::mpsc::UnboundedReceiver<Value> {
    let client = connect(&stage.url, "monitor").await;
    let heard = client.queue_subscribe("spotreel.alarms", "q".into()).await;
    let mut heard = heard.unwrap();
    // Asked on the same connection: with the answer, the server knows that we listen.
    let context = async_nats::jetstream::new(client.clone());
    context.get_stream("TASKS").await.unwrap();
    let (told, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(question) = heard.next().await {
            let _ = told.send(serde_json::from_slice(&question.payload).unwrap());
            let reply = question.reply.unwrap();
            let sent = client.publish(reply, answer.to_string().into()).await;
            sent.unwrap();
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_is_asked_and_its_alarms_passed_on() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let refused = web.get("/v1/alarms").await;
    refused.is_problem(503, "unavailable");
    let why = refused.json["detail"].as_str().unwrap();
    assert!(why.contains("spotreel-monitor answers this"), "{why}");

    let mut asked = monitor(&stage, backlog()).await;
    let shown = web.get("/v1/alarms?firing=true").await;
    assert_eq!((shown.status.as_u16(), shown.json), (200, backlog()));
    assert_eq!(asked.recv().await.unwrap(), json!({ "firing": true }));
    for bad in ["?firing=perhaps", "?burning=true"] {
        let refused = web.get(&format!("/v1/alarms{bad}")).await;
        refused.is_problem(400, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_for_keys_that_see_all_tasks() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let _asked = monitor(&stage, backlog()).await;
    for (access, status) in [("own", 404), ("all", 200)] {
        let order = json!({ "owner": "anna", "access": access });
        let (_, web) = web::key(&stage, &web, order).await;
        let shown = web.get("/v1/alarms").await;
        assert_eq!(shown.status.as_u16(), status, "{access}: {}", shown.json);
    }
}
