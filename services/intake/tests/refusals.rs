//! Bad input of every kind: each gets an answer with field and rule, and nothing is queued.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use async_nats::HeaderMap;
use serde_json::json;
use stage::Stage;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn whatever_is_wrong_is_named() {
    let stage = Stage::set().await;
    let good = json!({"model": "ti2v-5B", "prompt": "a red fox"});
    let with = |key: &str, value: serde_json::Value| {
        let mut task = good.clone();
        task[key] = value;
        task.to_string().into_bytes()
    };
    let raw = |text: &str| text.as_bytes().to_vec();
    let model = |model: &str, key: &str, value: serde_json::Value| {
        json!({"model": model, "prompt": "x", key: value})
            .to_string()
            .into_bytes()
    };
    let many_labels: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (raw(""), "body", "required"),
        (raw("  \n"), "body", "required"),
        (raw("hello"), "body", "object"),
        (raw("42"), "body", "object"),
        (raw("null"), "body", "object"),
        (raw("\"text\""), "body", "object"),
        (raw("{"), "body", "json"),
        (raw(r#"{"model":"ti2v-5B",}"#), "body", "json"),
        (raw(r#"{} trailing"#), "body", "json"),
        (raw(r#"{'model':'ti2v-5B'}"#), "body", "json"),
        (raw("[]"), "body", "length"),
        (raw("[1,2"), "body", "json"),
        (b"\xff\xfe{}".to_vec(), "body", "utf8"),
        (
            b"{\"model\":\"ti2v-5B\",\"prompt\":\"a\0b\"}".to_vec(),
            "prompt",
            "json",
        ),
        (
            raw(&format!(
                "{{\"labels\":{}1{}}}",
                "{\"a\":".repeat(5000),
                "}".repeat(5000)
            )),
            "labels.a",
            "type",
        ),
        (raw("{}"), "prompt", "length"),
        (raw(r#"{"model":"ti2v-5B"}"#), "prompt", "length"),
        (raw(r#"{"model":null,"prompt":"x"}"#), "model", "type"),
        (
            raw(r#"{"model":"ti2v-5B","model":"ti2v-5B","prompt":"x"}"#),
            "model",
            "once",
        ),
        (with("modle", json!("x")), "modle", "unknown"),
        (with("model", json!("wan")), "model", "known"),
        (with("model", json!("TI2V-5B")), "model", "known"),
        (
            with("model", json!("x".repeat(1_000_000))),
            "model",
            "known",
        ),
        (with("model", json!(5)), "model", "type"),
        (with("prompt", json!("")), "prompt", "length"),
        (with("prompt", json!("   ")), "prompt", "length"),
        (with("prompt", json!("x".repeat(2001))), "prompt", "length"),
        (with("prompt", json!("bell\u{7}")), "prompt", "printable"),
        (with("prompt", json!("nul\u{0}")), "prompt", "printable"),
        (with("prompt", json!(["a"])), "prompt", "type"),
        (
            with("negative_prompt", json!("x".repeat(2001))),
            "negative_prompt",
            "length",
        ),
        (with("size", json!("1280*704")), "size", "known"),
        (with("size", json!("1x1")), "size", "known"),
        (with("size", json!({})), "size", "type"),
        (with("frames", json!(0)), "frames", "4n+1"),
        (with("frames", json!(24)), "frames", "4n+1"),
        (with("frames", json!(125)), "frames", "4n+1"),
        (with("frames", json!(-1)), "frames", "range"),
        (with("frames", json!(1.5)), "frames", "type"),
        (with("frames", json!("5")), "frames", "type"),
        (with("frames", json!(99_999_999_999u64)), "frames", "range"),
        (with("steps", json!(0)), "steps", "range"),
        (with("steps", json!(61)), "steps", "range"),
        (with("quality", json!("ultra")), "quality", "known"),
        (with("quality", json!(4)), "quality", "type"),
        (with("quality", json!("fast")), "quality", "offered"),
        (
            raw(r#"{"model":"ti2v-5B","prompt":"x","quality":"best","steps":10}"#),
            "steps",
            "either",
        ),
        (
            raw(
                r#"{"model":"t2v-A14B","prompt":"x","quality":"standard","guidance_high_noise":2}"#,
            ),
            "guidance_high_noise",
            "either",
        ),
        (with("guidance", json!(0.5)), "guidance", "range"),
        (
            raw(r#"{"model":"ti2v-5B","prompt":"x","guidance":1e999}"#),
            "guidance",
            "range",
        ),
        (
            with("guidance_high_noise", json!(3)),
            "guidance_high_noise",
            "two_experts",
        ),
        (with("shift", json!(100)), "shift", "range"),
        (
            with("seed", json!(9_007_199_254_740_992u64)),
            "seed",
            "range",
        ),
        (with("seed", json!(-1)), "seed", "range"),
        (with("seed", json!("7")), "seed", "type"),
        (with("id", json!("")), "id", "token"),
        (with("id", json!("a.b")), "id", "token"),
        (with("id", json!("*")), "id", "token"),
        (with("id", json!("x".repeat(65))), "id", "token"),
        (with("id", json!(7)), "id", "type"),
        (
            with("idempotency_key", json!("")),
            "idempotency_key",
            "length",
        ),
        (
            with("idempotency_key", json!("x".repeat(257))),
            "idempotency_key",
            "length",
        ),
        (
            raw(r#"{"model":"ti2v-5B","prompt":"x","id":"a","idempotency_key":"b"}"#),
            "idempotency_key",
            "either",
        ),
        (with("priority", json!("urgent")), "priority", "known"),
        (with("priority", json!(1)), "priority", "type"),
        (
            with("expires_at", json!("2001-01-01T00:00:00Z")),
            "expires_at",
            "future",
        ),
        (
            with("expires_at", json!("tomorrow")),
            "expires_at",
            "format",
        ),
        (with("labels", json!(many_labels)), "labels", "count"),
        (with("labels", json!({"": "x"})), "labels", "text"),
        (
            with("labels", json!({"a": "x".repeat(129)})),
            "labels",
            "text",
        ),
        (with("labels", json!({"a": 1})), "labels.a", "type"),
        (with("labels", json!([])), "labels", "type"),
        (
            model("t2v-A14B", "image", json!({"s3_key": "images/a.png"})),
            "image",
            "refused",
        ),
        (
            raw(r#"{"model":"i2v-A14B","prompt":"x"}"#),
            "image",
            "required",
        ),
        (
            model("i2v-A14B", "image", json!({"url": "http://x"})),
            "image",
            "known",
        ),
        (
            model("i2v-A14B", "image", json!("images/a.png")),
            "image",
            "known",
        ),
        (
            model("i2v-A14B", "image", json!({"s3_key": "a", "base64": "b"})),
            "image",
            "type",
        ),
        (
            model("i2v-A14B", "image", json!({"s3_key": "secrets/a"})),
            "image.s3_key",
            "key",
        ),
        (
            model("i2v-A14B", "image", json!({"s3_key": "images/../a"})),
            "image.s3_key",
            "key",
        ),
        (
            model("i2v-A14B", "image", json!({"s3_key": "images/nothing.png"})),
            "image.s3_key",
            "exists",
        ),
        (
            model("i2v-A14B", "image", json!({"base64": "%%%"})),
            "image.base64",
            "base64",
        ),
        (
            model("i2v-A14B", "image", json!({"base64": "R0lGODlh"})),
            "image.base64",
            "format",
        ),
        (
            model("i2v-A14B", "image", json!({"base64": ""})),
            "image.base64",
            "format",
        ),
    ];
    assert!(cases.len() >= 40);
    let mut wrong = Vec::new();
    for (payload, field, rule) in cases {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(90)]).into_owned();
        let answer = stage.request("submit", payload, HeaderMap::new()).await;
        let header = answer
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Service-Error-Code"));
        assert_eq!(
            header.map(async_nats::HeaderValue::as_str),
            Some("400"),
            "{shown}"
        );
        let body: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let first = &body["error"]["violations"][0];
        if (first["field"].as_str(), first["rule"].as_str()) != (Some(field), Some(rule)) {
            wrong.push(format!("{shown}\n   wanted {field} {rule}, got {body}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for verb in ["get", "cancel", "retry"] {
        for (payload, field, rule) in [
            ("", "body", "required"),
            ("{}", "id", "required"),
            (r#"{"id":"a b"}"#, "id", "token"),
            (r#"{"id":"a","x":1}"#, "x", "unknown"),
            (r#"["a"]"#, "body", "object"),
        ] {
            let body = stage.ask(verb, payload).await;
            let first = &body["error"]["violations"][0];
            assert_eq!(
                (&first["field"], &first["rule"]),
                (&json!(field), &json!(rule)),
                "{verb} {payload}"
            );
        }
        let body = stage.ask(verb, r#"{"id":"nobody"}"#).await;
        assert_eq!(body["error"]["code"], "not_found");
    }
    for (query, field) in [
        (json!({"state": "done"}), "state"),
        (json!({"model": "wan"}), "model"),
        (json!({"limit": 0}), "limit"),
        (json!({"limit": 501}), "limit"),
        (json!({"page": 1}), "page"),
        (json!({"cursor": -1}), "cursor"),
    ] {
        let body = stage.ask("list", query.to_string()).await;
        assert_eq!(body["error"]["violations"][0]["field"], field, "{body}");
    }
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/x-protobuf");
    let body = stage.ask_with("submit", good.to_string(), headers).await;
    assert_eq!(body["error"]["violations"][0]["field"], "Content-Type");
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
