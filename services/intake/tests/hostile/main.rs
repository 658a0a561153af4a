//! The NATS API and the inbox, as somebody meets them who means harm: each message is answered with code, field and rule, or
//! dropped; afterwards a good task passes, and it is the only one in the log. The rules themselves are in `rules/`, whose table
//! is sent here too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod asks;
mod case;
mod inbox;
mod pictures;
mod wire;

#[path = "../stage/mod.rs"]
mod stage;
#[path = "../rules/table/mod.rs"]
mod table;

use async_nats::HeaderMap;
use serde_json::{Value, json};
use spotreel_bus::names::LOG_ALL;
use spotreel_domain::TaskId;
use stage::Stage;

/// Number of cases that are sent as requests, at least.
const AT_LEAST: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn every_case_is_refused_and_a_good_task_passes() {
    let stage = Stage::set().await;
    let mut cases = asks::cases();
    cases.extend(pictures::cases());
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    pictures::put_objects(&stage).await;
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(case.try_on(&stage).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    a_good_task_passes(&stage).await;
}

/// It carries every header that steers JetStream: none of them may reach the log.
async fn a_good_task_passes(stage: &Stage) {
    let mut headers = HeaderMap::new();
    for (name, value) in case::STEERING {
        headers.insert(name, value);
    }
    let good = json!({"model": "ti2v-5B", "prompt": "a red fox", "id": "good"}).to_string();
    let answer = stage.ask_with("submit", good, headers).await;
    assert_eq!(answer["id"], "good", "{answer}");
    let stored = stage.log.scan(LOG_ALL, 1, 10).await.unwrap();
    assert_eq!(stage.messages().await, 1);
    assert_eq!(stored[0].task.id, TaskId::parse("good").unwrap());
    let op = stored[0]
        .headers
        .get("Spotreel-Op")
        .map(async_nats::HeaderValue::as_str);
    assert!(op.is_some_and(|op| op != "forged"), "{op:?}");
    for (name, _) in case::STEERING.iter().filter(|(name, _)| {
        !name.starts_with("Spotreel")
            && !name.starts_with("trace")
            && !name.contains("Expected-Last-Subject")
    }) {
        assert!(
            stored[0].headers.get(*name).is_none(),
            "{name} is in the log"
        );
    }
    let seen = stage.ask("get", r#"{"id":"good"}"#).await;
    assert_eq!(seen["state"], "queued");
}

/// A case's refusal, in an answer or in an event.
fn first_violation(error: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let first = &error["violations"][0];
    (
        text(&error["code"]),
        text(&first["field"]),
        text(&first["rule"]),
    )
}
