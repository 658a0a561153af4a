//! The other verbs, and headers on all of them.

use serde_json::json;

use super::case::{Case, STEERING, case};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for verb in ["get", "cancel", "retry"] {
        for id in [
            "", "*", ">", "a.*", "fox.>", "..", "../fox", "%2e", "a\u{0}b", "a\r\nb", "\u{202e}",
            "é",
        ] {
            let body = json!({ "id": id }).to_string();
            cases.push(case(&format!("id {id:?}"), body, "id", "token").asked(verb));
        }
        let long = json!({ "id": "x".repeat(1 << 20) }).to_string();
        cases.push(case("an id of a megabyte", long, "id", "token").asked(verb));
        for (id, rule) in [
            ("null", "type"),
            ("7", "type"),
            ("[\"a\"]", "type"),
            ("{}", "type"),
        ] {
            cases.push(case(id, format!("{{\"id\":{id}}}"), "id", rule).asked(verb));
        }
        let twice = case("an id twice", r#"{"id":"a","id":"b"}"#, "id", "once");
        cases.push(twice.asked(verb));
        let spaces = vec![b' '; 7 << 20];
        cases.push(case("seven megabytes of nothing", spaces, "body", "required").asked(verb));
        cases.push(case("broken UTF-8", &b"{\"id\":\"\xc3\"}"[..], "body", "utf8").asked(verb));
    }
    for (query, field, rule) in [
        ("[]", "body", "object"),
        ("\0", "body", "object"),
        (r#"{"limit":4294967296}"#, "limit", "range"),
        (r#"{"limit":1.5}"#, "limit", "type"),
        (r#"{"limit":"10"}"#, "limit", "type"),
        (r#"{"limit":true}"#, "limit", "type"),
        (r#"{"limit":-0}"#, "limit", "range"),
        (r#"{"cursor":18446744073709551616}"#, "cursor", "range"),
        (r#"{"cursor":1e999}"#, "cursor", "range"),
        (r#"{"state":"queued\u0000"}"#, "state", "known"),
        (r#"{"state":["queued"]}"#, "state", "type"),
        (r#"{"state":""}"#, "state", "known"),
        (r#"{"model":""}"#, "model", "known"),
        (r#"{"model":">"}"#, "model", "known"),
        (r#"{"limit":1,"limit":2}"#, "limit", "once"),
        (r#"{"label":""}"#, "label", "format"),
        (r#"{"owner":"*"}"#, "owner", "token"),
        (r#"{"id_prefix":">"}"#, "id_prefix", "token"),
        (r#"{"since":1e999}"#, "since", "range"),
    ] {
        cases.push(case(query, query, field, rule).asked("list"));
    }
    cases.extend(headers());
    cases
}

fn headers() -> Vec<Case> {
    let good = r#"{"model":"ti2v-5B","prompt":"x"}"#;
    let mut cases: Vec<Case> = [
        "application/protobuf",
        "application/x-protobuf; proto=task.v1.Task",
        "text/plain",
        "application/json5",
        "application/json,text/html",
        "multipart/form-data; boundary=x",
        "*/*",
        "",
    ]
    .into_iter()
    .map(|kind| case(kind, good, "Content-Type", "known").bearing("Content-Type", kind))
    .collect();
    for verb in ["get", "cancel", "retry", "list"] {
        let other = case("protobuf", &b"\x0a\x01a"[..], "Content-Type", "known");
        cases.push(
            other
                .asked(verb)
                .bearing("Content-Type", "application/protobuf"),
        );
    }
    // A header that steers JetStream changes nothing about a request.
    for (name, value) in STEERING {
        cases.push(case(name, "{}", "prompt", "length").bearing(name, value));
    }
    cases
}
