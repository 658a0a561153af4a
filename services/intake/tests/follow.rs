//! Followers of events: each hears its task to the end, nothing of another life of its id, and nothing with a key that is
//! not good any more.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use spotreel_bus::names::EVENTS;
use spotreel_domain::TaskId;
use stage::{Stage, until};
use web::{Sse, Web};

const NEVER_GIVEN: Option<&str> = Some("1000000000");
/// Time to begin what the key's end is to end, also on a busy machine.
const EXPIRES_AFTER: Duration = Duration::from_secs(10);

fn fox(id: &str) -> Value {
    json!({ "model": "ti2v-5B", "prompt": "a red fox in the snow", "id": id })
}

async fn cancel(stage: &Stage, web: &Web, id: &str) {
    web.send(Method::DELETE, &format!("/v1/tasks/{id}")).await;
    web::tell(stage, id).await;
}

/// Intake's listeners on EVENTS.
async fn listeners(stage: &Stage) -> Vec<String> {
    let context = jetstream::new(stage.root.clone());
    let events = context.get_stream(EVENTS).await.unwrap();
    let infos: Vec<_> = events.consumers().collect().await;
    let infos = infos.into_iter().map(Result::unwrap);
    let ours = infos.filter(|info| {
        let to = info.config.deliver_subject.as_deref();
        to.is_some_and(|to| to.starts_with("_INBOX_intake"))
    });
    ours.map(|info| info.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_hears_the_end_although_the_listener_on_events_is_lost() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    web.post("/v1/tasks", &fox("f")).await;
    // Nothing was heard before the loss: there is no last event to go on from.
    let mut follower = Sse::open(&web, "/v1/tasks/f/events", None).await;
    let mut all = Sse::open(&web, "/v1/events", None).await;
    until("intake listens", async || {
        !listeners(&stage).await.is_empty()
    })
    .await;
    let context = jetstream::new(stage.root.clone());
    let events = context.get_stream(EVENTS).await.unwrap();
    for name in listeners(&stage).await {
        events.delete_consumer(&name).await.unwrap();
    }
    cancel(&stage, &web, "f").await;
    assert_eq!(follower.next().await.unwrap().event, "cancelled");
    assert!(follower.next().await.is_none());
    assert_eq!(all.next().await.unwrap().event, "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_this_stream_never_gave_is_answered_with_reset() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    web.post("/v1/tasks", &fox("f")).await;
    web::tell(&stage, "f").await;
    let mut all = Sse::open(&web, "/v1/events", NEVER_GIVEN).await;
    let mut follower = Sse::open(&web, "/v1/tasks/f/events", NEVER_GIVEN).await;
    for stream in [&mut all, &mut follower] {
        let reset = stream.next().await.unwrap();
        assert_eq!(reset.event, "reset");
        let detail = reset.data["detail"].as_str().unwrap();
        assert!(detail.contains("Last-Event-ID"), "{detail}");
    }
    cancel(&stage, &web, "f").await;
    // The task's own from its first event on; of all only what is new.
    assert_eq!(follower.next().await.unwrap().event, "queued");
    assert_eq!(follower.next().await.unwrap().event, "cancelled");
    assert!(follower.next().await.is_none());
    assert_eq!(all.next().await.unwrap().event, "cancelled");
    // Of a task that has ended, too.
    let mut late = Sse::open(&web, "/v1/tasks/f/events", NEVER_GIVEN).await;
    for event in ["reset", "queued", "cancelled"] {
        assert_eq!(late.next().await.unwrap().event, event);
    }
    assert!(late.next().await.is_none());
}

/// As the janitor does when a task has been kept for long enough.
async fn freed(stage: &Stage, id: &str) {
    let id = TaskId::parse(id).unwrap();
    for event in stage.log.history(&id).await.unwrap() {
        stage.log.delete(event.sequence).await.unwrap();
    }
    assert!(stage.log.last(&id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lives_of_an_id_never_meet_in_events() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let (_, anna) = web::key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = web::key(&stage, &web, json!({ "owner": "ben" })).await;
    let (_, ops) = web::key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    anna.post("/v1/tasks", &fox("again")).await;
    web::tell(&stage, "again").await;
    cancel(&stage, &anna, "again").await;
    let path = "/v1/tasks/again/events";
    let mut first = Sse::open(&anna, path, None).await;
    let queued = first.next().await.unwrap();
    freed(&stage, "again").await;

    assert_eq!(ben.post("/v1/tasks", &fox("again")).await.status, 201);
    web::tell(&stage, "again").await;
    anna.get(path).await.is_problem(404, "not_found");
    cancel(&stage, &ben, "again").await;
    // Neither its new owner nor who may see everything is told of the first life, wherever he begins.
    for key in [&ben, &ops] {
        for last in [None, queued.id.as_deref(), NEVER_GIVEN] {
            let mut heard = Vec::new();
            let mut follower = Sse::open(key, path, last).await;
            while let Some(told) = follower.next().await {
                if told.event != "reset" {
                    assert_eq!(told.data["data"]["owner"], "ben", "{told:?}");
                    heard.push(told.event);
                }
            }
            assert_eq!(heard, ["queued", "cancelled"], "from {last:?} on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_expires_ends_its_open_streams() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let (id, anna) = web::key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, ben) = web::key(&stage, &web, json!({ "owner": "ben" })).await;
    anna.post("/v1/tasks", &fox("annas")).await;
    let mut of_all = Sse::open(&anna, "/v1/events", None).await;
    let mut of_task = Sse::open(&anna, "/v1/tasks/annas/events", None).await;
    let mut bens = Sse::open(&ben, "/v1/events", None).await;
    stage.order("ops.key.revoke", &json!({ "id": id })).await;
    // Nothing happens on them: they end all the same.
    assert!(of_all.next().await.is_none());
    assert!(of_task.next().await.is_none());
    ben.post("/v1/tasks", &fox("bens")).await;
    web::tell(&stage, "bens").await;
    assert_eq!(bens.next().await.unwrap().event, "queued");

    let soon = spotreel_bootstrap::ambient::now() + EXPIRES_AFTER;
    let order = json!({ "owner": "carl", "expires_at": soon });
    let (_, carl) = web::key(&stage, &web, order).await;
    let mut expires = Sse::open(&carl, "/v1/events", None).await;
    assert!(expires.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_expires_ends_its_long_upload() {
    // No other time is up here.
    let patient = [("api.auth", "keys"), ("api.idle_timeout", "1h")];
    let stage = Stage::set_with(&patient).await;
    let web = Web::of(&stage);
    let (id, anna) = web::key(&stage, &web, json!({ "owner": "anna" })).await;
    let soon = spotreel_bootstrap::ambient::now() + EXPIRES_AFTER;
    let order = json!({ "owner": "ben", "expires_at": soon });
    let (_, ben) = web::key(&stage, &web, order).await;
    let mut uploads = Vec::new();
    for key in [&anna, &ben] {
        let mut upload = web::Upload::begin(key).await;
        upload.say(&fox(&format!("first-{}", uploads.len())));
        let line = upload.line().await.unwrap();
        assert!(line["id"].is_string(), "{line}");
        uploads.push(upload);
    }
    stage.order("ops.key.revoke", &json!({ "id": id })).await;
    for upload in &mut uploads {
        // The client sends nothing, and does not end its body.
        assert_eq!(upload.line().await, None);
    }
    assert_eq!(stage.messages().await, 2);
}
