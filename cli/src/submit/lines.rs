//! A file of tasks: one JSON object per line, or one JSON list, cut into calls.

mod parse;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use spotreel_api::{TaskRequest, Violation};
use spotreel_domain::Priority;

use crate::print;

/// The most tasks in one call: intake stores them in one batch.
const TASKS_PER_CALL: usize = 1_000;

/// One task of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestLine {
    /// Counts from 1, as editors do. Of a JSON list: the task's place in it.
    pub number: usize,
    pub json: String,
}

/// What holds for every line that does not say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Goes before the key that is made of each line's text.
    pub idempotency_key: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub priority: Option<Priority>,
}

/// One line that is no task, or breaks rules.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BadLine {
    pub line: usize,
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

impl BadLine {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
            violations: Vec::new(),
        }
    }
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = in_one_line(&self.message, &self.violations);
        write!(f, "line {}: {why}", self.line)
    }
}

/// Reads and checks the whole file before anything is sent: half a file submitted is hard to mend. A task without a
/// name gets an idempotency key made of its own text, so that the same file again is the same tasks.
pub fn read(
    text: &str,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<Vec<RequestLine>, Vec<BadLine>> {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (number, json) in parse::tasks(text).map_err(|error| vec![error])? {
        let mut task = match parse::task(&json, now) {
            Ok(task) => task,
            Err(message) => {
                bad.push(BadLine::new(number, message));
                continue;
            }
        };
        if task.id.is_none() && task.idempotency_key.is_none() {
            let same = seen.entry(json.trim().to_owned()).or_default();
            *same += 1;
            task.idempotency_key = Some(key(defaults, json.trim(), *same));
        }
        task.priority = task.priority.or(defaults.priority);
        for (name, value) in &defaults.labels {
            let label = task.labels.entry(name.clone());
            label.or_insert_with(|| value.clone());
        }
        if let Err(violations) = check(&task, now) {
            let message = print::count(violations.len(), "broken rule");
            bad.push(BadLine {
                violations,
                ..BadLine::new(number, message)
            });
            continue;
        }
        match serde_json::to_string(&task) {
            Ok(json) => lines.push(RequestLine { number, json }),
            Err(error) => bad.push(BadLine::new(number, error.to_string())),
        }
    }
    if bad.is_empty() { Ok(lines) } else { Err(bad) }
}

/// Of the line's own text, and of how many such lines there were up to it: other lines may be mended, added or moved.
fn key(defaults: &Defaults, text: &str, same: usize) -> String {
    let hash = hex::encode(Sha256::digest(text.as_bytes()));
    let prefix = defaults.idempotency_key.as_deref().unwrap_or("line");
    format!("{prefix}-{}-{same}", &hash[..32])
}

/// The server's own rules, in words that fit a file.
fn check(task: &TaskRequest, now: Timestamp) -> Result<(), Vec<Violation>> {
    let Err(mut broken) = task.validate(now) else {
        return Ok(());
    };
    for rule in &mut broken {
        if rule.field == "model" && task.model.is_empty() {
            rule.message =
                "model is missing: add \"model\", such as \"model\": \"ti2v-5B\"".to_owned();
        }
    }
    Err(broken)
}

/// Cuts into calls of at most a thousand tasks and `most` bytes. A line that is larger goes alone.
pub fn calls(lines: &[RequestLine], most: usize) -> Vec<&[RequestLine]> {
    let mut calls = Vec::new();
    let (mut start, mut size) = (0, 2);
    for (index, line) in lines.iter().enumerate() {
        let more = line.json.len() + 1;
        let full = index - start == TASKS_PER_CALL || size + more > most;
        if index > start && full {
            calls.push(&lines[start..index]);
            (start, size) = (index, 2);
        }
        size += more;
    }
    if start < lines.len() {
        calls.push(&lines[start..]);
    }
    calls
}

/// The JSON list of one call.
pub fn body(call: &[RequestLine]) -> Vec<u8> {
    let objects: Vec<&str> = call.iter().map(|line| line.json.as_str()).collect();
    format!("[{}]", objects.join(",")).into_bytes()
}

/// `frames is 4n+1; size …`: a refusal in one line.
pub fn in_one_line(message: &str, violations: &[Violation]) -> String {
    if violations.is_empty() {
        return message.to_owned();
    }
    let rules = violations.iter().map(print::rule);
    rules.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOX: &str = r#"{"model":"ti2v-5B","prompt":"a fox"}"#;

    fn read(text: &str) -> Result<Vec<RequestLine>, Vec<BadLine>> {
        super::read(text, &Defaults::default(), Timestamp::UNIX_EPOCH)
    }

    /// What is said of the file's bad lines.
    fn complaints(text: &str) -> Vec<String> {
        let bad = read(text).unwrap_err();
        bad.iter().map(ToString::to_string).collect()
    }

    fn task(line: &RequestLine) -> TaskRequest {
        serde_json::from_str(&line.json).unwrap()
    }

    fn line(number: usize, bytes: usize) -> RequestLine {
        RequestLine {
            number,
            json: "x".repeat(bytes),
        }
    }

    #[test]
    fn a_line_without_an_id_keeps_its_key_when_the_file_is_mended() {
        let first = read(&format!("{FOX}\n\n{FOX}\n")).unwrap();
        assert_eq!([first[0].number, first[1].number], [1, 3]);
        assert_ne!(first[0].json, first[1].json, "two lines are two tasks");
        let other = r#"{"model":"ti2v-5B","prompt":"b","id":"mine"}"#;
        let mended = read(&format!("{other}\n{FOX}\n{FOX}")).unwrap();
        assert_eq!(mended[1].json, first[0].json);
        assert_eq!(mended[2].json, first[1].json);
        assert_eq!(task(&mended[0]).id.as_deref(), Some("mine"));
        assert_eq!(task(&mended[0]).idempotency_key, None);
    }

    #[test]
    fn flags_are_defaults_of_lines() {
        let defaults = Defaults {
            idempotency_key: Some("night".into()),
            labels: [("team", "a"), ("for", "x")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            priority: Some(Priority::High),
        };
        let own = r#"{"model":"ti2v-5B","prompt":"b","labels":{"team":"b"},"priority":"normal"}"#;
        let lines =
            super::read(&format!("{FOX}\n{own}"), &defaults, Timestamp::UNIX_EPOCH).unwrap();
        let (plain, own) = (task(&lines[0]), task(&lines[1]));
        assert!(plain.idempotency_key.unwrap().starts_with("night-"));
        assert_eq!(plain.priority, Some(Priority::High));
        assert_eq!(own.priority, Some(Priority::Normal));
        assert_eq!([&own.labels["team"], &own.labels["for"]], ["b", "x"]);
    }

    #[test]
    fn every_bad_line_is_told_before_anything_is_sent() {
        let bad = complaints(&format!(
            "{FOX}\n{{\"promt\":\"b\"}}\n{{\"prompt\":\"b\"}}\na fox\n{{\"model\":\"ti2v-5B\",\"prompt\":\"b\",\"frames\":6}}"
        ));
        assert_eq!(bad.len(), 4, "{bad:?}");
        assert!(
            bad[0].starts_with("line 2: unknown field `promt`"),
            "{}",
            bad[0]
        );
        assert!(bad[1].starts_with("line 3: model is missing"), "{}", bad[1]);
        assert!(
            bad[2].starts_with("line 4: this is plain text"),
            "{}",
            bad[2]
        );
        assert!(bad[3].starts_with("line 5: frames is 4n+1"), "{}", bad[3]);
    }

    #[test]
    fn files_of_windows_are_files_of_tasks() {
        let plain = read(&format!("{FOX}\n{FOX}\n")).unwrap();
        assert_eq!(read(&format!("\u{feff}{FOX}\r\n{FOX}\r\n")).unwrap(), plain);
    }

    #[test]
    fn a_json_list_is_a_file_of_tasks() {
        let lines = read(&format!("[\n  {FOX},\n  {FOX}\n]\n")).unwrap();
        assert_eq!([lines[0].number, lines[1].number], [1, 2]);
        assert_eq!(lines, read(&format!("{FOX}\n{FOX}")).unwrap());
        assert_eq!(complaints("[\n  {},\n").len(), 1);
    }

    #[test]
    fn a_line_may_say_when_it_expires_and_which_picture_it_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let picture = dir.path().join("ff.png");
        std::fs::write(&picture, b"a picture").unwrap();
        let with = |more: &str| format!(r#"{{"model":"ti2v-5B","prompt":"a",{more}}}"#);
        let good = with(&format!(r#""expires_in":"2h","image":{picture:?}"#));
        let lines = read(&good).unwrap();
        let seen = task(&lines[0]);
        assert_eq!(seen.expires_at, Timestamp::from_second(7_200).ok());
        assert!(seen.image.is_some());
        let bad = complaints(&with(r#""expires_in":"soon""#));
        assert!(bad[0].contains("such as 30min, 2h or 1d"), "{}", bad[0]);
        let bad = complaints(&with(r#""image":"nowhere.png""#));
        assert!(bad[0].contains("nowhere.png"), "{}", bad[0]);
        let twice = with(r#""labels":{"a":"1","a":"2"},"expires_in":"2h""#);
        let bad = complaints(&twice);
        assert!(bad[0].contains("duplicate"), "{}", bad[0]);
    }

    #[test]
    fn calls_hold_a_thousand_tasks_or_half_a_message() {
        let many: Vec<RequestLine> = (0..2_500).map(|number| line(number, 10)).collect();
        let sizes: Vec<_> = calls(&many, 1 << 20)
            .iter()
            .map(|call| call.len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);

        let large: Vec<RequestLine> = [40, 40, 40, 500, 10]
            .iter()
            .map(|bytes| line(1, *bytes))
            .collect();
        let sizes: Vec<_> = calls(&large, 100).iter().map(|call| call.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        for call in calls(&large, 100) {
            assert!(body(call).len() <= 100 || call.len() == 1);
        }
        assert!(calls(&[], 100).is_empty());
    }
}
