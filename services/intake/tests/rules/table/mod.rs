//! Submissions that must be refused, and the field and the rule that each refusal names. A case that fits into a line is in
//! `bodies.txt` or `fields.txt`.

pub mod pictures;
mod raw;

use serde_json::json;

pub struct Case {
    pub name: String,
    pub payload: Vec<u8>,
    pub field: String,
    pub rule: &'static str,
}

/// All of them.
pub fn submissions() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(raw::cases());
    cases.extend(pictures::cases());
    cases
}

pub fn case(
    name: &str,
    payload: impl Into<Vec<u8>>,
    field: impl Into<String>,
    rule: &'static str,
) -> Case {
    Case {
        name: name.to_owned(),
        payload: payload.into(),
        field: field.into(),
        rule,
    }
}

/// A good task but for one key, whose value is JSON text.
pub fn with(key: &str, value: &str, field: &str, rule: &'static str) -> Case {
    let good = json!({"model": "ti2v-5B", "prompt": "a red fox"});
    let others: String = ["model", "prompt"]
        .iter()
        .filter(|other| **other != key)
        .map(|other| format!(",{other:?}:{}", good[other]))
        .collect();
    let payload = format!("{{{key:?}:{value}{others}}}");
    let shown: String = value.chars().take(40).collect();
    case(&format!("{key}: {shown}"), payload, field, rule)
}

/// The cases of `bodies.txt` and `fields.txt`.
fn lines() -> Vec<Case> {
    fn rows(table: &'static str) -> impl Iterator<Item = [&'static str; 3]> {
        let rows = table
            .lines()
            .filter(|row| !row.is_empty() && !row.starts_with('#'));
        rows.map(|row| {
            let (field, row) = row.split_once(' ').unwrap();
            let (rule, sent) = row.trim_start().split_once(' ').unwrap();
            [field, rule, sent.trim_start()]
        })
    }
    let bodies = rows(include_str!("bodies.txt"));
    let bodies = bodies.map(|[field, rule, body]| case(body, body, field, rule));
    let fields = rows(include_str!("fields.txt")).map(|[field, rule, sent]| {
        let (key, value) = sent.split_once(' ').unwrap();
        with(key, value, field, rule)
    });
    bodies.chain(fields).collect()
}
