//! What is written for readers says what the programs do.

use std::collections::BTreeSet;
use std::process::Command;

use spotreel_api::{ErrorCode, TaskRequest};
use spotreel_bus::names;
use spotreel_bus::provision::{self, Layout};
use spotreel_domain::alarm::AlarmName;
use spotreel_domain::trigger::Rules;
use spotreel_domain::{Event, TaskId};
use spotreel_tests::harness::program::binary;
use spotreel_tests::harness::root;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Panics with all that is missing at once.
fn expect_words<'a>(text: &str, what: &str, words: impl IntoIterator<Item = &'a str>) {
    let quoted: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let missing: BTreeSet<&str> = words
        .into_iter()
        .filter(|word| !quoted.contains(word))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/messages.md does not name {what}: {missing:?}"
    );
}

#[test]
fn every_subject_and_header_is_described() {
    let text = read("docs/messages.md");
    expect_words(&text, "the verbs", names::VERBS);
    let id = TaskId::parse("ID").expect("it is an id");
    let of_id = [
        names::log_of(&id),
        names::progress(&id),
        names::hint(&id),
        names::event_of(&id, "rejected"),
        names::events_of(&id),
    ];
    let of_events = Event::ALL.map(|event| names::event_of(&id, event.as_str()));
    let of_id = of_id
        .into_iter()
        .chain(of_events)
        .map(|subject| subject.replace("ID", "<id>"));
    let of_id: Vec<String> = of_id.collect();
    expect_words(
        &text,
        "the subjects of a task",
        of_id.iter().map(String::as_str),
    );
    expect_words(
        &text,
        "the inner events",
        Event::ALL
            .map(Event::as_str)
            .into_iter()
            .filter(|e| *e != "queued"),
    );
    let fixed = [
        names::LOG_ALL,
        names::INBOX_SUBJECT,
        names::WORKERS_BUCKET,
        names::MARKS_BUCKET,
    ];
    expect_words(
        &text,
        "fixed names",
        fixed
            .into_iter()
            .chain([names::SWEEPER_MARK, names::EVENTS]),
    );
    let headers = [
        names::HEADER_OP,
        names::HEADER_LOG_SEQUENCE,
        names::HEADER_EXPECTED,
        names::HEADER_EXPECTED_FILTER,
    ];
    expect_words(&text, "the headers", headers);
}

#[test]
fn every_stream_and_consumer_is_described() {
    let text = read("docs/messages.md");
    let layout = Layout::default();
    for stream in provision::streams(&layout) {
        expect_words(&text, "a stream", [stream.name.as_str()]);
        expect_words(
            &text,
            "a stream's subjects",
            stream.subjects.iter().map(String::as_str),
        );
    }
    for (stream, consumer) in provision::consumers(&layout) {
        let name = consumer.durable_name.as_deref().unwrap_or_default();
        assert!(
            text.contains(&format!("| `{stream}` | `{name}` |")),
            "consumer {stream}/{name} is missing"
        );
        let filters = consumer
            .filter_subjects
            .iter()
            .chain([&consumer.filter_subject]);
        expect_words(
            &text,
            "a filter",
            filters
                .map(String::as_str)
                .filter(|filter| !filter.is_empty()),
        );
    }
}

#[test]
fn every_permission_is_described() {
    let (text, accounts) = (read("docs/messages.md"), read("deploy/nats/accounts.conf"));
    let lines = accounts
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default());
    let code: String = lines
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    expect_words(
        &text,
        "what the accounts name",
        code.split('"').skip(1).step_by(2),
    );
    for user in spotreel_programs::nats::USERS {
        let Some((_, section)) = text.split_once(&format!("#### `{user}`\n")) else {
            panic!("user {user} has no section of its own");
        };
        let section = section.split("\n##").next().unwrap_or_default();
        let Some((_, rights)) = code.split_once(&format!("user: {user},")) else {
            panic!("{user} is no user");
        };
        let ends = ["{ user:", "exports:", "imports:"];
        let end = ends
            .iter()
            .filter_map(|end| rights.find(end))
            .min()
            .unwrap_or(rights.len());
        let wanted: BTreeSet<&str> = rights[..end].split('"').skip(1).step_by(2).collect();
        let written: BTreeSet<&str> = section
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| !word.starts_with("SPOTREEL_"))
            .collect();
        assert_eq!(written, wanted, "the permissions of {user}");
    }
}

#[test]
fn every_alarm_is_described_with_what_to_do() {
    let page = read("docs/operations.md");
    let section = page
        .split("\n## ")
        .find(|part| part.starts_with("Alarms\n"));
    let section = section.expect("docs/operations.md has a section about alarms");
    for name in AlarmName::ALL {
        let row = section
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/operations.md lacks the alarm {name}"));
        assert_eq!(row.matches(" | ").count(), 3, "{row}");
    }
}

#[test]
fn every_refusal_is_described_with_its_status() {
    let text = read("docs/messages.md");
    for code in ErrorCode::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status());
        assert!(text.contains(&row), "{row} is missing");
    }
}

#[test]
fn the_example_task_is_one() {
    let text = read("docs/messages.md");
    let example = text
        .split("```json\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let task: TaskRequest =
        serde_json::from_str(example.expect("there is one")).expect("it parses");
    let now = spotreel_bootstrap::ambient::now();
    let valid = TaskRequest {
        expires_at: None,
        ..task
    }
    .validate(now);
    assert!(valid.is_ok(), "{valid:?}");
}

#[test]
fn every_field_of_a_task_is_described() {
    // serde names the fields to whoever sends another.
    let error = serde_json::from_str::<TaskRequest>(r#"{"": 0}"#).expect_err("no such field");
    let error = error.to_string();
    let text = read("docs/messages.md");
    for field in error.split('`').skip(3).step_by(2) {
        let named = [format!("`{field}`"), format!("\"{field}\"")];
        assert!(named.iter().any(|name| text.contains(name)), "{field}");
    }
}

#[test]
fn every_rule_is_in_the_sample_of_pools() {
    let sample = read("deploy/pools.toml");
    let rules = serde_json::to_value(Rules::default()).expect("they have string keys");
    for key in rules.as_object().expect("it is a table").keys() {
        let table = format!("[pool.default.rules.{key}]");
        assert!(sample.contains(&table), "deploy/pools.toml lacks {table}");
    }
}

#[test]
fn every_sample_configuration_is_taken_by_its_program() {
    for (name, path) in [
        ("intake", "services/intake/intake.toml"),
        ("notifier", "services/notifier/notifier.toml"),
        ("monitor", "services/monitor/monitor.toml"),
        ("trigger", "services/trigger/trigger.toml"),
        ("fleet", "services/fleet/fleet.toml"),
        ("worker", "worker/worker.toml"),
    ] {
        let checked = Command::new(binary(&format!("spotreel-{name}")))
            .arg("--check-config")
            .arg("--config")
            .arg(root().join(path))
            .output()
            .expect("it can be started");
        assert!(
            checked.status.success(),
            "{path}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}
