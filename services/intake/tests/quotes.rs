//! Quotes over HTTP, with trigger's part played by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stage::{Answerer, Stage};
use web::Web;

fn offered() -> Value {
    json!({
        "pool": "default", "model": "i2v-A14B", "width": 1280, "height": 720, "frames": 81, "steps": 40, "tasks": 100,
        "offers": [{
            "kind": "g6e.xlarge", "gpu": "L40S", "weights": "float8", "seconds": 1234.5, "measured": true,
            "per_hour": "0.700000", "price": "market", "per_video": "0.240042",
            "machines": 4, "all_seconds": 30862.5, "all": "24.004167"
        }]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_is_asked_and_its_quote_passed_on() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let mut trigger = Answerer::begin(&stage, "trigger", &["spotreel.quote"]).await;
    trigger.says(offered());
    // As large as a picture may be, and larger than a message.
    let picture = "A".repeat(12 << 20);
    let task = json!({ "model": "i2v-A14B", "size": "1280x720", "image": { "base64": picture } });
    let quoted = web
        .post("/v1/quotes", &json!({ "task": task, "tasks": 100 }))
        .await;
    assert_eq!((quoted.status, quoted.json), (StatusCode::OK, offered()));
    let asked = trigger.asked().await;
    assert_eq!(
        asked,
        json!({ "task": { "model": "i2v-A14B", "prompt": "", "size": "1280x720" }, "tasks": 100 })
    );
    assert_eq!(stage.messages().await, 0, "nothing is submitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_submission_would_be_refused_for_is_refused_in_the_same_words() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    for task in [
        json!({ "model": "ti2v-5B", "prompt": "x", "frames": 6, "steps": 0, "size": "1x1" }),
        json!({ "model": "ti2v-5B", "prompt": "x", "frames": "many" }),
        json!({ "model": "ti2v-5B", "prompt": "x", "owner": "anna" }),
        json!({ "model": "ti2v-5B", "prompt": "x", "labels": { "a": 1 } }),
        json!({ "model": "ti2v-5B", "prompt": "x", "quality": "fast" }),
        json!({ "model": "sora", "prompt": " " }),
        json!({ "model": "t2v-A14B", "prompt": "x", "image": { "s3_key": "images/a" } }),
    ] {
        let submitted = web.post("/v1/tasks", &task).await;
        submitted.is_problem(400, "invalid");
        let quoted = web.post("/v1/quotes", &json!({ "task": task })).await;
        quoted.is_problem(400, "invalid");
        assert_eq!(quoted.json, submitted.json);
    }
    for (body, fields) in [
        (json!({}), vec!["task"]),
        (json!({ "task": ["ti2v-5B"] }), vec!["task"]),
        (
            json!({ "task": { "model": "ti2v-5B", "frames": 6 }, "tasks": 0 }),
            vec!["frames", "tasks"],
        ),
        (
            json!({ "task": { "model": "ti2v-5B" }, "tasks": u64::MAX }),
            vec!["tasks"],
        ),
        (
            json!({ "task": { "model": "ti2v-5B" }, "tasks": 1.5 }),
            vec!["tasks"],
        ),
        (
            json!({ "task": { "model": "ti2v-5B" }, "pool": "default" }),
            vec!["pool"],
        ),
    ] {
        let refused = web.post("/v1/quotes", &body).await;
        refused.is_problem(400, "invalid");
        let broken = refused.json["violations"].as_array().unwrap();
        let named: Vec<_> = broken.iter().map(|broken| &broken["field"]).collect();
        assert_eq!(named, fields, "{body}");
    }
    let lines = web
        .request(Method::POST, "/v1/quotes")
        .header("Content-Type", "application/jsonl");
    web.answer(lines.body("{}"))
        .await
        .is_problem(415, "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_trigger_refuses_is_passed_on() {
    let refusals = [
        (
            json!({ "code": "not_found", "message": "no pool renders ti2v-5B: add it to `models` of one" }),
            404,
            false,
        ),
        (
            json!({ "code": "invalid", "message": "it breaks a rule",
                    "violations": [{ "field": "shift", "rule": "range", "message": "shift is less" }] }),
            400,
            false,
        ),
        (
            json!({ "code": "unavailable", "message": "later", "retry_after_s": 7 }),
            503,
            true,
        ),
    ];
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let trigger = Answerer::begin(&stage, "trigger", &["spotreel.quote"]).await;
    for (error, status, later) in refusals {
        trigger.says(json!({ "error": error }));
        let refused = ask(&web).await;
        refused.is_problem(status, error["code"].as_str().unwrap());
        assert_eq!(refused.json["detail"], error["message"]);
        assert_eq!(refused.json["violations"], error["violations"]);
        assert_eq!(refused.headers.contains_key("retry-after"), later);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_it_is_later() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let later = async |words: &str| {
        let refused = ask(&web).await;
        refused.is_problem(503, "unavailable");
        assert_eq!(refused.headers["retry-after"], "2");
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(
            detail.contains("spotreel-trigger") && detail.contains(words),
            "{detail}"
        );
    };
    later("none is running").await;
    let trigger = Answerer::begin(&stage, "trigger", &["spotreel.quote"]).await;
    later("did not answer in time").await;
    trigger.says(json!({ "price": 7 }));
    later("another version").await;
}

async fn ask(web: &Web) -> web::Answer {
    let body = json!({ "task": { "model": "ti2v-5B" } });
    web.post("/v1/quotes", &body).await
}
