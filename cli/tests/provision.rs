//! `spotreel provision` over what an older version made, as a person or a container runs it.

use std::process::{Command, Output};

use serde_json::{Value, json};
use spotreel_test_kit::{Nats, js, password, provisioned_before_alarms, without_settings};

fn provision(nats: &Nats, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel"));
    without_settings(&mut command);
    command
        .args(["provision", "--nats-url", &nats.url])
        .args(args)
        .env("SPOTREEL_PROVISION_PASSWORD", password("provision"))
        .env(
            "SPOTREEL_CLIENTS_PROVISION_PASSWORD",
            password("clients-provision"),
        );
    command.output().expect("it can be started")
}

#[track_caller]
fn printed(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}{errors}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_prints_each_change_and_succeeds_and_a_refusal_says_what_to_do() {
    let nats = provisioned_before_alarms().await;
    let checked = printed(&provision(&nats, &["--check"]), 0);
    assert!(checked.contains("would be updated: subjects spotreel.alarm.> added"));
    assert!(checked.contains("would be created"));

    let upgraded = provision(&nats, &[]);
    let said = printed(&upgraded, 0);
    let lines = |words: &str| said.lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("updated: "), 4, "{said}");
    assert_eq!(lines("updated: subjects spotreel.alarm.> added"), 1);
    assert_eq!(lines("updated: max_ack_pending raised from 1 to 50000"), 1);
    let log = String::from_utf8_lossy(&upgraded.stderr);
    assert!(
        log.contains("updated name=stream EVENTS changes=allow_atomic turned on;"),
        "{log}"
    );
    let again = provision(&nats, &["--json"]);
    let again: Value = serde_json::from_str(&printed(&again, 0)).expect("it is JSON");
    let things = again["things"].as_array().expect("it is a list");
    assert!(things.len() > 20 && things.iter().all(|one| one["outcome"] == "as_wanted"));

    let client = nats.client("provision").await;
    let info = js(&client, "STREAM.INFO.EVENTS", &json!({})).await;
    let mut config = info["config"].clone();
    config["discard"] = "new".into();
    js(&client, "STREAM.UPDATE.EVENTS", &config).await;
    let refused = printed(&provision(&nats, &[]), 1);
    assert!(
        refused.contains("DIFFERS, left as it is: discard is new, this version needs old: edit it"),
        "{refused}"
    );
    printed(&provision(&nats, &["--check"]), 1);
}
