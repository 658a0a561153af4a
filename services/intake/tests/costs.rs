//! Receipts and costs over HTTP, with monitor's part played by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use reqwest::StatusCode;
use serde_json::{Value, json};
use stage::{Answerer, Stage};
use web::{Web, key};

fn lines() -> Value {
    json!({
        "boot": "0.000100", "load": "0.000000", "rendering": "0.000900", "idle": "0.000000",
        "interrupted": "0.000000", "volume": "0.000000", "address": "0.000000", "credit": "0.000000"
    })
}

fn of_task(owner: &str) -> Value {
    json!({
        "task": "fox-1", "owner": owner, "model": "ti2v-5B", "final": true, "total": "0.001000", "lines": lines(),
        "time": { "rendering_ms": 9_000 }, "batches": [], "unpriced_attempts": 0
    })
}

fn of_batch() -> Value {
    json!({
        "batch": "default-1", "requested_at": "2026-11-30T10:00:00Z", "final": false, "total": "0.001000",
        "lines": lines(), "unallocated": lines(), "instances": [], "task_count": 0, "tasks": [], "other_tasks": "0.000000"
    })
}

fn report() -> Value {
    json!({
        "from": "2026-11-01", "to": "2026-12-01", "by": "label:shot", "total": "0.001000", "lines": lines(),
        "videos": 1, "mean_per_day": "0.000033", "projected_month": "0.000990", "rows": []
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_is_asked_and_its_answer_passed_on() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let mut monitor =
        Answerer::begin(&stage, "monitor", &["spotreel.receipt", "spotreel.costs"]).await;
    let receipt = "spotreel.receipt".to_owned();
    let cases = [
        (
            "/v1/receipts/tasks/fox-1",
            of_task("anna"),
            (receipt.clone(), json!({ "task": "fox-1" })),
        ),
        (
            "/v1/receipts/batches/default-1",
            of_batch(),
            (receipt, json!({ "batch": "default-1" })),
        ),
        (
            "/v1/costs?from=2026-11-01&to=2026-12-01&by=label:shot&owner=anna",
            report(),
            (
                "spotreel.costs".to_owned(),
                json!({ "from": "2026-11-01", "to": "2026-12-01", "by": "label:shot", "owner": "anna" }),
            ),
        ),
    ];
    for (path, answer, question) in cases {
        monitor.says(answer.clone());
        let got = web.get(path).await;
        assert_eq!((got.status, got.json), (StatusCode::OK, answer), "{path}");
        assert_eq!(monitor.asked_on().await, question, "{path}");
    }
    let refused = json!({ "code": "not_found", "message": "there is no batch default-9" });
    monitor.says(json!({ "error": refused }));
    let passed_on = web.get("/v1/receipts/batches/default-9").await;
    passed_on.is_problem(404, "not_found");
    assert_eq!(passed_on.json["detail"], refused["message"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_the_costs_of_its_own_tasks_and_no_others() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let (_, anna) = key(&stage, &web, json!({ "owner": "anna" })).await;
    let (_, all) = key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    let mut monitor =
        Answerer::begin(&stage, "monitor", &["spotreel.receipt", "spotreel.costs"]).await;

    monitor.says(of_task("ben"));
    let theirs = anna.get("/v1/receipts/tasks/fox-1").await;
    theirs.is_problem(404, "not_found");
    assert!(!theirs.json.to_string().contains("ben"), "{}", theirs.json);
    assert_eq!(all.get("/v1/receipts/tasks/fox-1").await.status, 200);
    monitor.says(of_task("anna"));
    assert_eq!(anna.get("/v1/receipts/tasks/fox-1").await.status, 200);
    for _ in 0..3 {
        monitor.asked().await;
    }

    let batch = "/v1/receipts/batches/default-1";
    anna.get(batch).await.is_problem(404, "not_found");
    anna.get("/v1/costs?owner=ben")
        .await
        .is_problem(400, "invalid");
    assert!(monitor.was_not_asked());
    monitor.says(of_batch());
    assert_eq!(all.get(batch).await.status, 200);
    monitor.asked().await;

    monitor.says(report());
    for path in ["/v1/costs", "/v1/costs?owner=anna"] {
        assert_eq!(anna.get(path).await.status, 200);
        let question = monitor.asked().await;
        assert_eq!(question["owner"], "anna", "{path}");
    }
    assert_eq!(all.get("/v1/costs").await.status, 200);
    let question = monitor.asked().await;
    assert_eq!(question.get("owner"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_refused_before_monitor_is_asked() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    for (path, field, words) in [
        ("/v1/costs?by=year", "by", "label:NAME"),
        ("/v1/costs?from=yesterday", "from", "four digit"),
        ("/v1/costs?since=2026-11-01", "since", "unknown field"),
        ("/v1/costs?owner=No%20One", "owner", "an owner has"),
        ("/v1/receipts/tasks/a.b", "id", "64 characters"),
        ("/v1/receipts/batches/%FF", "id", "UTF-8"),
    ] {
        let refused = web.get(path).await;
        refused.is_problem(400, "invalid");
        let broken = &refused.json["violations"][0];
        assert_eq!(broken["field"], field, "{path}: {}", refused.json);
        let message = broken["message"].as_str().unwrap();
        assert!(message.contains(words), "{path}: {message}");
    }
    for path in [
        "/v1/costs",
        "/v1/receipts/tasks/a",
        "/v1/receipts/batches/a-1",
    ] {
        let later = web.get(path).await;
        later.is_problem(503, "unavailable");
        assert_eq!(later.headers["retry-after"], "2");
        let detail = later.json["detail"].as_str().unwrap();
        assert!(detail.contains("spotreel-monitor"), "{detail}");
    }
}
