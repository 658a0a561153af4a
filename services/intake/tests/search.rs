//! Searches over HTTP, with monitor's part played by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use reqwest::StatusCode;
use serde_json::{Value, json};
use stage::{Answerer, Stage};
use web::Web;

fn found(id: &str, owner: &str) -> Value {
    json!({
        "id": id, "owner": owner, "state": "failed", "model": "ti2v-5B", "prompt": "a fox", "labels": {},
        "submitted_at": "2026-11-30T10:00:00Z", "at": "2026-11-30T10:01:00Z",
    })
}

fn page(tasks: &[Value]) -> Value {
    json!({ "tasks": tasks, "as_of": "2026-11-30T10:02:00Z" })
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_is_asked_and_its_page_passed_on() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let mut monitor = Answerer::begin(&stage, "monitor", &["spotreel.search"]).await;
    let mut answer = page(&[found("a", "anna"), found("b", "ben")]);
    answer["next_cursor"] = json!(41);
    monitor.says(answer.clone());
    let asked = "/v1/search?text=a+%E7%8B%90&state=failed&since=2026-11-23T00:00:00Z&limit=2";
    let got = web.get(asked).await;
    assert_eq!((got.status, &got.json), (StatusCode::OK, &answer));
    let link = got.headers["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let question =
        json!({ "text": "a 狐", "state": "failed", "since": "2026-11-23T00:00:00Z", "limit": 2 });
    assert_eq!(monitor.asked().await, question);
    web.get(next).await;
    let mut further = question;
    further["cursor"] = json!(41);
    assert_eq!(monitor.asked().await, further);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_finds_the_tasks_of_its_owner_only() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    web.get("/v1/search").await.is_problem(401, "unauthorized");
    let mut monitor = Answerer::begin(&stage, "monitor", &["spotreel.search"]).await;
    let both = [found("a", "anna"), found("b", "ben")];
    // As if monitor had a fault.
    monitor.says(page(&both));
    let (_, anna) = web::key(&stage, &web, json!({ "owner": "anna" })).await;
    let got = anna.get("/v1/search?state=failed").await;
    assert_eq!(got.json, page(&both[..1]));
    let own = json!({ "owner": "anna", "state": "failed" });
    assert_eq!(monitor.asked().await, own);
    anna.get("/v1/search?owner=anna&state=failed").await;
    assert_eq!(monitor.asked().await, own);
    let refused = anna.get("/v1/search?owner=ben").await;
    refused.is_problem(400, "invalid");
    assert_eq!(refused.json["violations"][0]["rule"], "access");

    let (_, all) = web::key(&stage, &web, json!({ "owner": "ops", "access": "all" })).await;
    assert_eq!(all.get("/v1/search").await.json, page(&both));
    assert_eq!(monitor.asked().await, json!({}));
    all.get("/v1/search?owner=ben").await;
    assert_eq!(monitor.asked().await, json!({ "owner": "ben" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_are_refused_and_no_answer_means_later() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    for (query, field) in [
        ("state=done", "state"),
        ("text=%21", "text"),
        ("batch=default", "batch"),
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("page=2", "page"),
        ("since=yesterday", "since"),
    ] {
        let refused = web.get(&format!("/v1/search?{query}")).await;
        refused.is_problem(400, "invalid");
        assert_eq!(refused.json["violations"][0]["field"], field, "{query}");
    }
    let later = async |words: &str| {
        let refused = web.get("/v1/search").await;
        refused.is_problem(503, "unavailable");
        assert!(refused.headers.contains_key("retry-after"));
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
    };
    later("none is running now").await;
    let monitor = Answerer::begin(&stage, "monitor", &["spotreel.search"]).await;
    later("did not answer in time").await;
    monitor.says(json!({ "tasks": 7 }));
    later("another version").await;
    monitor.says(json!({ "error": { "code": "unavailable", "message": "700 events are left", "retry_after_s": 5 } }));
    later("700 events").await;
}
