//! What the NATS API adds to the rules of input: other verbs, sizes, headers.

use super::case::{Case, STEERING, case};

const GOOD: &str = r#"{"model":"ti2v-5B","prompt":"x"}"#;

pub fn cases() -> Vec<Case> {
    let large = format!(
        r#"{{"model":"ti2v-5B","prompt":"{}"}}"#,
        "x".repeat(7 << 20)
    );
    let mut cases = vec![
        case("a prompt of seven megabytes", large, "prompt", "length"),
        case("broken UTF-8", &b"{\"id\":\"\xc3\"}"[..], "body", "utf8"),
    ];
    for verb in ["get", "cancel", "retry"] {
        cases.push(case("an id", r#"{"id":"fox.>"}"#, "id", "token").asked(verb));
        let spaces = vec![b' '; 7 << 20];
        cases.push(case("seven megabytes of nothing", spaces, "body", "required").asked(verb));
    }
    cases.push(case("a limit", r#"{"limit":4294967296}"#, "limit", "range").asked("list"));
    cases.push(case("a list", "[]", "body", "object").asked("list"));
    let kind = "application/x-protobuf; proto=task.v1.Task";
    for verb in ["submit", "get", "cancel", "retry", "list"] {
        let other = case("protobuf", GOOD, "Content-Type", "known");
        cases.push(other.asked(verb).bearing("Content-Type", kind));
    }
    // A header that steers JetStream changes nothing about a request.
    for (name, value) in STEERING {
        cases.push(case(name, "{}", "prompt", "length").bearing(name, value));
    }
    cases
}
