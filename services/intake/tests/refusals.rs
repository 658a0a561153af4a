//! Refusals over NATS: of each verb, of lists, and of what is too much. The rules of input are in `rules/`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use async_nats::HeaderMap;
use serde_json::json;
use stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_refuses_by_field_and_rule() {
    let stage = Stage::set().await;
    for (verb, payload, field, rule) in [
        ("submit", r#"{"modle":"x"}"#, "modle", "unknown"),
        (
            "submit",
            r#"{"model":"wan","prompt":"x"}"#,
            "model",
            "known",
        ),
        (
            "submit",
            r#"{"model":"i2v-A14B","prompt":"x","image":{"base64":"R0lGODlh"}}"#,
            "image.base64",
            "format",
        ),
        ("get", "{}", "id", "required"),
        ("cancel", r#"{"id":"a b"}"#, "id", "token"),
        ("retry", r#"["a"]"#, "body", "object"),
        ("list", r#"{"limit":501}"#, "limit", "range"),
        ("list", r#"{"page":1}"#, "page", "unknown"),
    ] {
        let answer = stage.request(verb, payload, HeaderMap::new()).await;
        let headers = answer.headers.as_ref();
        let code = headers.and_then(|headers| headers.get("Nats-Service-Error-Code"));
        let code = code.map(async_nats::HeaderValue::as_str);
        assert_eq!(code, Some("400"), "{verb} {payload}");
        let body: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let first = &body["error"]["violations"][0];
        assert_eq!(
            (&first["field"], &first["rule"]),
            (&json!(field), &json!(rule)),
            "{verb} {payload}"
        );
    }
    for verb in ["get", "cancel", "retry"] {
        let body = stage.ask(verb, r#"{"id":"nobody"}"#).await;
        assert_eq!(body["error"]["code"], "not_found");
    }
    let too_many = format!("[{}1]", "1,".repeat(10_000));
    assert_eq!(
        stage.ask("submit", too_many).await["error"]["code"],
        "too_large"
    );
    assert_eq!(stage.messages().await, 0);
    assert!(!stage.ctx.stopping.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_list_is_judged_alone() {
    let stage = Stage::set().await;
    let good = json!({"model": "ti2v-5B", "prompt": "a red fox"});
    let list = json!([good, 7, {"model": "wan"}, good, {"modle": 1}]);
    let answer = stage.submit(&list).await;
    assert_eq!(
        (&answer["accepted"], &answer["refused"]),
        (&json!(2), &json!(3)),
        "{answer}"
    );
    assert!(answer["results"][0]["id"].is_string());
    assert_eq!(answer["results"][1]["error"]["code"], "invalid");
    assert_eq!(
        answer["results"][4]["error"]["violations"][0]["field"],
        "modle"
    );
    assert_eq!(stage.messages().await, 2);
}

/// 10,000 refusals with every detail would be larger than a message.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_refusals_fit_into_one_answer() {
    let stage = Stage::set().await;
    let bad = json!({"model": "x".repeat(500), "prompt": "", "frames": 2, "steps": 0, "seed": 1e15, "id": "a b"});
    let answer = stage.submit(&json!(vec![bad; 10_000])).await;
    assert_eq!(answer["refused"], 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_say_when_to_come_back() {
    let stage =
        Stage::set_with(&[("limits.max_queued", "3"), ("limits.tasks_per_second", "1")]).await;
    let good = json!({"model": "ti2v-5B", "prompt": "a red fox", "id": "first"});
    assert_eq!(stage.submit(&good).await["id"], "first");
    let list = json!(vec![json!({"model": "ti2v-5B", "prompt": "x"}); 5]);
    let answer = stage.submit(&list).await;
    // One that was let in while the counts were read may count twice until the next look: never too many.
    assert!(
        (1..=2).contains(&answer["accepted"].as_u64().unwrap()),
        "{answer}"
    );
    assert_eq!(answer["results"][4]["error"]["code"], "queue_full");
    assert!(answer["results"][4]["error"]["retry_after_s"].as_u64() > Some(0));
    assert_eq!(
        stage.submit(&good).await["id"],
        "first",
        "what is known is answered, however full the queue"
    );
    let call = json!(vec![json!({}); 10_000]);
    let mut last = serde_json::Value::Null;
    for _ in 0..3 {
        last = stage.submit(&call).await;
    }
    assert_eq!(last["error"]["code"], "rate_limited", "{}", last["error"]);
    assert!(last["error"]["retry_after_s"].as_u64() > Some(1));
}
