//! Alarms over HTTP, with monitor's part played by the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;
mod web;

use serde_json::{Value, json};
use stage::{Answerer, Stage};
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

#[tokio::test(flavor = "multi_thread")]
async fn monitor_is_asked_and_its_alarms_passed_on() {
    let stage = Stage::set().await;
    let web = Web::of(&stage);
    let refused = web.get("/v1/alarms").await;
    refused.is_problem(503, "unavailable");
    let why = refused.json["detail"].as_str().unwrap();
    assert!(why.contains("spotreel-monitor answers this"), "{why}");

    let mut monitor = Answerer::begin(&stage, "monitor", &["spotreel.alarms"]).await;
    monitor.says(backlog());
    let shown = web.get("/v1/alarms?firing=true").await;
    assert_eq!((shown.status.as_u16(), shown.json), (200, backlog()));
    assert_eq!(monitor.asked().await, json!({ "firing": true }));
    for bad in ["?firing=perhaps", "?burning=true"] {
        let refused = web.get(&format!("/v1/alarms{bad}")).await;
        refused.is_problem(400, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_for_keys_that_see_all_tasks() {
    let stage = Stage::set_with(&[("api.auth", "keys")]).await;
    let web = Web::of(&stage);
    let monitor = Answerer::begin(&stage, "monitor", &["spotreel.alarms"]).await;
    monitor.says(backlog());
    for (access, status) in [("own", 404), ("all", 200)] {
        let order = json!({ "owner": "anna", "access": access });
        let (_, web) = web::key(&stage, &web, order).await;
        let shown = web.get("/v1/alarms").await;
        assert_eq!(shown.status.as_u16(), status, "{access}: {}", shown.json);
    }
}
