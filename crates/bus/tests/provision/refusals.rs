//! What only a person may change is refused, with what to do, and left as it is.

use serde_json::json;
use spotreel_bus::Queue;
use spotreel_bus::names::{BATCHES, CONSUMER_NOTIFIER, EVENTS, TASKS};
use spotreel_bus::provision::{Layout, Mode, ProvisionOutcome, apply_clients, provide_clients};
use spotreel_test_kit::{Logs, js, provisioned_before_alarms, until};

use super::SOON;
use super::edits::{applied, consumer, edit, make_consumer, remake, remake_consumer, stream};

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_an_older_notifier_is_not_taken_from_it() {
    let nats = provisioned_before_alarms().await;
    let client = nats.client("provision").await;
    let older = {
        let client = nats.client("notifier").await;
        tokio::spawn(async move {
            let queue = Queue::open(&client, TASKS, CONSUMER_NOTIFIER)
                .await
                .unwrap();
            loop {
                let _ = queue.pull(SOON).await;
            }
        })
    };
    until("it waits for events", async || {
        consumer(&client, TASKS, CONSUMER_NOTIFIER).await["num_waiting"] == 1
    })
    .await;
    let reports = applied(&client).await;
    let ProvisionOutcome::Differs { differences } = &reports["consumer TASKS/notifier"] else {
        panic!("{reports:?}");
    };
    assert!(differences[0].contains("max_ack_pending is 1") && differences[0].contains("Stop it"));
    assert_eq!(
        consumer(&client, TASKS, CONSUMER_NOTIFIER).await["config"]["max_ack_pending"],
        1
    );
    older.abort();
    let again = applied(&client).await;
    assert!(
        matches!(
            again["consumer TASKS/notifier"],
            ProvisionOutcome::Updated { .. }
        ),
        "{again:?}"
    );
}

/// What is said of each, in a deployment with all these differences.
const REFUSED: [(&str, &str); 11] = [
    (
        "stream EVENTS",
        "the server refuses it: JetStream refused: subjects overlap",
    ),
    (
        "stream INBOX",
        "retention is limits, this version needs workqueue: it has to be made anew",
    ),
    (
        "stream BATCHES",
        "retention is interest, this version needs limits: it has to be made anew",
    ),
    (
        "stream KV_spotreel-keys",
        "deny_delete is false, this version needs true: edit it",
    ),
    (
        "stream KV_spotreel-workers",
        "discard is old, this version needs new: edit it",
    ),
    (
        "consumer BATCHES/notifier",
        "max_ack_pending is 50, this version needs 1: edit it",
    ),
    (
        "consumer TASKS/ti2v-5B_0",
        "max_waiting is 512, this version needs 4096: it has to be made anew",
    ),
    (
        "consumer TASKS/ti2v-5B_0b",
        "filter_subject is spotreel.log.*.queued.ti2v-5B.1, this version needs",
    ),
    (
        "consumer TASKS/deadlines",
        "deliver_policy is new, this version needs all: it has to be made anew",
    ),
    (
        "consumer TASKS/janitor",
        "filter spotreel.log.*.cancelled is missing",
    ),
    (
        "consumer TASKS/sweeper",
        "ack_policy is all, this version needs explicit: it has to be made anew",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_other_difference_is_refused_and_left_as_it_is() {
    let nats = provisioned_before_alarms().await;
    let client = nats.client("provision").await;
    // Another stream has a subject that is to be added.
    js(
        &client,
        "STREAM.CREATE.OTHER",
        &json!({ "name": "OTHER", "subjects": ["spotreel.alarm.backlog.*"], "storage": "file" }),
    )
    .await;
    remake(&client, "INBOX", json!({ "retention": "limits" })).await;
    remake(
        &client,
        BATCHES,
        json!({ "retention": "interest", "max_bytes": 1 << 20 }),
    )
    .await;
    remake(&client, "KV_spotreel-keys", json!({ "deny_delete": false })).await;
    edit(&client, "KV_spotreel-workers", json!({ "discard": "old" })).await;
    let notifier = json!({ "durable_name": "notifier", "filter_subject": "spotreel.batchlog.>", "ack_policy": "explicit",
        "max_deliver": -1, "ack_wait": 5_000_000_000_u64, "max_ack_pending": 50 });
    make_consumer(&client, BATCHES, notifier).await;
    for (name, change) in [
        ("ti2v-5B_0", json!({ "max_waiting": 512 })),
        (
            "ti2v-5B_0b",
            json!({ "filter_subject": "spotreel.log.*.queued.ti2v-5B.1" }),
        ),
        ("deadlines", json!({ "deliver_policy": "new" })),
        (
            "janitor",
            json!({ "filter_subject": "spotreel.log.*.failed", "filter_subjects": null }),
        ),
        ("sweeper", json!({ "ack_policy": "all" })),
    ] {
        remake_consumer(&client, TASKS, name, change).await;
    }
    // The janitor has passed the end of a task that its filters lack.
    let logs = Logs::over(client.clone()).await;
    let started = logs.started(&logs.submit("t0").await).await;
    logs.cancelled(&started).await;
    let started = logs.started(&logs.submit("t1").await).await;
    logs.failed(&started).await;
    let janitor = Queue::open(&client, TASKS, "janitor").await.unwrap();
    janitor
        .pull(SOON)
        .await
        .unwrap()
        .unwrap()
        .ack()
        .await
        .unwrap();

    let batches = stream(&client, BATCHES).await["config"].clone();
    let reports = applied(&client).await;
    for (name, expected) in REFUSED {
        match &reports[name] {
            ProvisionOutcome::Differs { differences } => assert!(
                differences.iter().any(|one| one.contains(expected)),
                "{name}: {differences:?}"
            ),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(stream(&client, BATCHES).await["config"], batches);
    assert_eq!(
        reports["stream LEDGER"],
        ProvisionOutcome::Created,
        "the others go on"
    );
    // Until a person has made room for it.
    js(&client, "STREAM.DELETE.OTHER", &json!({})).await;
    let again = applied(&client).await;
    assert!(
        matches!(again["stream EVENTS"], ProvisionOutcome::Updated { .. }),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_events_that_is_too_small_grows_and_one_of_something_else_is_refused() {
    let nats = provisioned_before_alarms().await;
    let clients = nats.client("clients-provision").await;
    edit(&clients, EVENTS, json!({ "max_bytes": 1 << 20 })).await;
    let check = provide_clients(&clients, &Layout::default(), Mode::Check)
        .await
        .unwrap();
    assert!(
        matches!(check.outcome, ProvisionOutcome::Outdated { .. }),
        "{check:?}"
    );
    let grown = apply_clients(&clients, &Layout::default()).await.unwrap();
    let ProvisionOutcome::Updated { changes } = grown.outcome else {
        panic!("{grown:?}");
    };
    assert_eq!(
        changes,
        ["max_bytes raised from 1048576 bytes to 4294967296 bytes"]
    );
    remake(
        &clients,
        EVENTS,
        json!({ "mirror": null, "subjects": ["own.>"] }),
    )
    .await;
    let other = apply_clients(&clients, &Layout::default()).await.unwrap();
    assert!(
        matches!(other.outcome, ProvisionOutcome::Differs { .. }),
        "{other:?}"
    );
}
