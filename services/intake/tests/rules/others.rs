//! Requests that are no submissions: a task by its id, and questions for quotes.

use serde_json::json;

use super::table::{Case, case};

/// Media types of NATS requests that are refused.
pub const OTHER_TYPES: [&str; 8] = [
    "application/protobuf",
    "application/x-protobuf; proto=task.v1.Task",
    "text/plain",
    "application/json5",
    "application/json,text/html",
    "multipart/form-data; boundary=x",
    "*/*",
    "",
];

/// For `get`, `cancel` and `retry`.
pub fn named() -> Vec<Case> {
    let mut cases = vec![
        case("nothing", "", "body", "required"),
        case("no id", "{}", "id", "required"),
        case("a blank in an id", r#"{"id":"a b"}"#, "id", "token"),
        case("an unknown field", r#"{"id":"a","x":1}"#, "x", "unknown"),
        case("a list", r#"["a"]"#, "body", "object"),
        case("an id twice", r#"{"id":"a","id":"b"}"#, "id", "once"),
        case(
            "seven megabytes of nothing",
            vec![b' '; 7 << 20],
            "body",
            "required",
        ),
        case("broken UTF-8", &b"{\"id\":\"\xc3\"}"[..], "body", "utf8"),
    ];
    let long = "x".repeat(1 << 20);
    for id in [
        "", "*", ">", "a.*", "fox.>", "..", "../fox", "%2e", "a\u{0}b", "a\r\nb", "\u{202e}", "é",
        &long,
    ] {
        let name: String = id.chars().take(20).collect();
        cases.push(case(&name, json!({ "id": id }).to_string(), "id", "token"));
    }
    for id in ["null", "7", "[\"a\"]", "{}"] {
        cases.push(case(id, format!("{{\"id\":{id}}}"), "id", "type"));
    }
    cases
}

pub fn quotes() -> Vec<Case> {
    let deep = format!("{{\"task\":{}}}", "[".repeat(100_000));
    vec![
        case("a list", "[]", "body", "object"),
        case(
            "a list as a task",
            r#"{"task":["ti2v-5B"]}"#,
            "task",
            "object",
        ),
        case("brackets", deep, "task", "json"),
        case(
            "2^64 tasks",
            r#"{"task":{"model":"ti2v-5B"},"tasks":18446744073709551616}"#,
            "tasks",
            "range",
        ),
        case(
            "half a surrogate",
            r#"{"task":{"model":"ti2v-5B","prompt":"\ud800"}}"#,
            "prompt",
            "json",
        ),
    ]
}
