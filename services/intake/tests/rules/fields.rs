//! What a client gets wrong without meaning harm, field by field.

use serde_json::{Value, json};

use super::{Case, case, with};

pub fn cases() -> Vec<Case> {
    let mut cases = bodies();
    cases.extend(one_field());
    cases.extend(two_fields());
    cases
}

fn bodies() -> Vec<Case> {
    let cases = [
        ("", "body", "required"),
        (" \r\n\t ", "body", "required"),
        ("hello", "body", "object"),
        ("42", "body", "object"),
        ("null", "body", "object"),
        ("\"text\"", "body", "object"),
        ("{", "body", "json"),
        (r#"{"model":"ti2v-5B",}"#, "body", "json"),
        ("{} trailing", "body", "json"),
        ("{'model':'ti2v-5B'}", "body", "json"),
        ("[]", "body", "length"),
        ("[1,2", "body", "json"),
        (r#"{"a.b`c":1}"#, "a.b`c", "unknown"),
        ("{}", "prompt", "length"),
        (r#"{"model":"ti2v-5B"}"#, "prompt", "length"),
        (r#"{"model":null,"prompt":"x"}"#, "model", "type"),
        (
            r#"{"model":"ti2v-5B","model":"ti2v-5B","prompt":"x"}"#,
            "model",
            "once",
        ),
        (
            "{\"model\":\"ti2v-5B\",\"prompt\":\"a\0b\"}",
            "prompt",
            "json",
        ),
    ];
    cases
        .into_iter()
        .map(|(body, field, rule)| case(body, body, field, rule))
        .collect()
}

fn set(key: &'static str, value: &Value, field: &'static str, rule: &'static str) -> Case {
    with(key, &value.to_string(), field, rule)
}

fn one_field() -> Vec<Case> {
    let long = |length| json!("x".repeat(length));
    let many_labels: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    vec![
        set("modle", &json!("x"), "modle", "unknown"),
        set("model", &json!("wan"), "model", "known"),
        set("model", &json!("TI2V-5B"), "model", "known"),
        set("model", &long(1_000_000), "model", "known"),
        set("model", &json!(5), "model", "type"),
        set("prompt", &json!(""), "prompt", "length"),
        set("prompt", &json!("   "), "prompt", "length"),
        set("prompt", &long(2_001), "prompt", "length"),
        set("prompt", &json!("bell\u{7}"), "prompt", "printable"),
        set("prompt", &json!(["a"]), "prompt", "type"),
        set("negative_prompt", &long(2_001), "negative_prompt", "length"),
        set("size", &json!("1280*704"), "size", "known"),
        set("size", &json!("1x1"), "size", "known"),
        set("size", &json!({}), "size", "type"),
        set("frames", &json!(0), "frames", "4n+1"),
        set("frames", &json!(24), "frames", "4n+1"),
        set("frames", &json!(125), "frames", "4n+1"),
        set("frames", &json!(-1), "frames", "range"),
        set("frames", &json!("5"), "frames", "type"),
        set("steps", &json!(0), "steps", "range"),
        set("steps", &json!(61), "steps", "range"),
        set("quality", &json!("ultra"), "quality", "known"),
        set("quality", &json!(4), "quality", "type"),
        set("guidance", &json!(0.5), "guidance", "range"),
        set(
            "guidance_high_noise",
            &json!(3),
            "guidance_high_noise",
            "two_experts",
        ),
        set("shift", &json!(100), "shift", "range"),
        set("seed", &json!(9_007_199_254_740_992_u64), "seed", "range"),
        set("seed", &json!("7"), "seed", "type"),
        set("id", &json!(""), "id", "token"),
        set("id", &json!("a.b"), "id", "token"),
        set("id", &json!("*"), "id", "token"),
        set("id", &long(65), "id", "token"),
        set("id", &json!(7), "id", "type"),
        set("idempotency_key", &json!(""), "idempotency_key", "length"),
        set("idempotency_key", &long(257), "idempotency_key", "length"),
        set("priority", &json!("urgent"), "priority", "known"),
        set("priority", &json!(1), "priority", "type"),
        set(
            "expires_at",
            &json!("2001-01-01T00:00:00Z"),
            "expires_at",
            "future",
        ),
        set("expires_at", &json!("tomorrow"), "expires_at", "format"),
        set("labels", &json!(many_labels), "labels", "count"),
        set("labels", &json!({"": "x"}), "labels", "text"),
        set("labels", &json!({"a": "x".repeat(129)}), "labels", "text"),
        set("labels", &json!({"a": 1}), "labels.a", "type"),
        set("labels", &json!([]), "labels", "type"),
        with("labels", &deep, "labels.a", "type"),
    ]
}

/// Fields that do not fit each other.
fn two_fields() -> Vec<Case> {
    let cases = [
        (
            json!({"model": "ti2v-5B", "prompt": "x", "quality": "best", "steps": 10}),
            "steps",
            "either",
        ),
        (
            json!({"model": "t2v-A14B", "prompt": "x", "quality": "standard", "guidance_high_noise": 2}),
            "guidance_high_noise",
            "either",
        ),
        (
            json!({"model": "ti2v-5B", "prompt": "x", "id": "a", "idempotency_key": "b"}),
            "idempotency_key",
            "either",
        ),
        (
            json!({"model": "t2v-A14B", "prompt": "x", "image": {"s3_key": "images/a.png"}}),
            "image",
            "refused",
        ),
        (
            json!({"model": "i2v-A14B", "prompt": "x"}),
            "image",
            "required",
        ),
    ];
    cases
        .into_iter()
        .map(|(task, field, rule)| case(&task.to_string(), task.to_string(), field, rule))
        .collect()
}
