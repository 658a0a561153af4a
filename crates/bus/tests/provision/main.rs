//! An upgrade needs no hand: what an older version provisioned serves the newer one, with all that is in it; and the other way
//! round.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod edits;
mod refusals;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use serde_json::{Value, json};
use spotreel_bus::Queue;
use spotreel_bus::names::{CONSUMER_NOTIFIER, EVENTS, TASKS};
use spotreel_bus::provision::{Layout, Mode, ProvisionOutcome, apply, apply_clients, provide};
use spotreel_test_kit::{Logs, Nats, js, provisioned_before_alarms, until};

use edits::{applied, by_name, consumer, edit, edit_consumer, news, stream};

const SOON: Duration = Duration::from_secs(2);

/// Takes and acks the first events, as a notifier does.
async fn told(client: &Client, events: usize) {
    let queue = Queue::open(client, TASKS, CONSUMER_NOTIFIER).await.unwrap();
    for _ in 0..events {
        let delivery = queue.pull(SOON).await.unwrap().unwrap();
        delivery.ack().await.unwrap();
    }
}

/// Where every consumer is, and how much every stream holds.
async fn places(client: &Client) -> BTreeMap<String, Value> {
    let mut places = BTreeMap::new();
    for name in ["TASKS", "BATCHES", "EVENTS", "INBOX"] {
        let state = &stream(client, name).await["state"];
        let kept = json!([
            state["messages"],
            state["bytes"],
            state["first_seq"],
            state["last_seq"]
        ]);
        places.insert(name.to_owned(), kept);
    }
    for name in [
        "notifier",
        "sweeper",
        "janitor",
        "deadlines",
        "ti2v-5B_0",
        "ti2v-5B_1",
    ] {
        let info = consumer(client, TASKS, name).await;
        let place = |field: &str| json!([info[field]["consumer_seq"], info[field]["stream_seq"]]);
        let kept = json!([
            place("delivered"),
            place("ack_floor"),
            info["num_pending"],
            info["num_ack_pending"]
        ]);
        places.insert(name.to_owned(), kept);
    }
    places
}

/// What provisioning says of a deployment from before alarms.
fn assert_widened(news: &BTreeMap<String, ProvisionOutcome>) {
    let updated: Vec<_> = news
        .iter()
        .filter_map(|(name, outcome)| match outcome {
            ProvisionOutcome::Updated { changes } | ProvisionOutcome::Outdated { changes } => {
                Some((name.as_str(), changes.join("; ")))
            }
            _ => None,
        })
        .collect();
    let expected = [
        ("consumer TASKS/notifier", "max_ack_pending raised from 1 to 50000".to_owned()),
        (
            "stream EVENTS",
            "allow_atomic turned on; subjects spotreel.alarm.> added; subjects spotreel.webhook.> added".to_owned(),
        ),
    ];
    assert_eq!(updated, expected);
    let others: Vec<_> = news
        .iter()
        .filter(|(_, outcome)| {
            matches!(
                outcome,
                ProvisionOutcome::Created | ProvisionOutcome::Missing
            )
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        others,
        [
            "consumer EVENTS/callbacks",
            "consumer TASKS/ledger",
            "stream KV_spotreel-deliveries",
            "stream KV_spotreel-webhooks",
            "stream LEDGER",
        ]
    );
    assert_eq!(news.len(), updated.len() + others.len(), "{news:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_made_is_widened_and_all_in_it_stays() {
    let nats = provisioned_before_alarms().await;
    let client = nats.client("provision").await;
    let logs = Logs::over(client.clone()).await;
    for number in 0..5 {
        logs.submit(&format!("t{number}")).await;
    }
    told(&client, 2).await;
    js_publish(&client, "spotreel.task.t0.queued").await;
    let work = Queue::open(&client, TASKS, "ti2v-5B_1").await.unwrap();
    let _held = work.pull(SOON).await.unwrap().unwrap();
    let before = places(&client).await;
    let config = stream(&client, EVENTS).await["config"].clone();

    let check = provide(&client, &Layout::default(), Mode::Check).await;
    assert_widened(&news(by_name(check.unwrap())));
    assert_eq!(stream(&client, EVENTS).await["config"], config);
    assert_widened(&news(applied(&client).await));
    assert_eq!(places(&client).await, before);
    assert!(news(applied(&client).await).is_empty());

    let queue = Queue::open(&client, TASKS, CONSUMER_NOTIFIER)
        .await
        .unwrap();
    let pending = queue.pull_within(100, 1 << 20).await.unwrap();
    assert_eq!(
        pending.len(),
        3,
        "all that wait, at once, and none of those told"
    );
    js_publish(&client, "spotreel.alarm.backlog.firing").await;

    let clients = nats.client("clients-provision").await;
    let mirror = apply_clients(&clients, &Layout::default()).await.unwrap();
    assert_eq!(mirror.outcome, ProvisionOutcome::AsWanted);
    until("the copy has the event of an alarm", async || {
        stream(&clients, EVENTS).await["state"]["messages"] == 2
    })
    .await;
}

async fn js_publish(client: &Client, subject: &str) {
    let answer = client
        .request(subject.to_owned(), "{}".into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["stream"], EVENTS, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_set_is_kept() {
    let nats = provisioned_before_alarms().await;
    let client = nats.client("provision").await;
    let own = json!({
        "max_bytes": 5_i64 << 30,
        "max_age": 0,
        "max_msg_size": 900_000,
        "compression": "s2",
        "duplicate_window": 60_000_000_000_u64,
        "description": "ours",
        "metadata": { "team": "video" },
        "subjects": ["spotreel.task.>", "spotreel.rejected.*", "spotreel.batch.>", "acme.videos.*"],
    });
    edit(&client, EVENTS, own.clone()).await;
    let own_of_notifier = json!({ "description": "ours", "metadata": { "team": "video" }, "ack_wait": 7_000_000_000_u64 });
    edit_consumer(&client, TASKS, CONSUMER_NOTIFIER, own_of_notifier.clone()).await;

    let reports = apply(&client, &Layout::default()).await.unwrap();
    let events = reports
        .iter()
        .find(|one| one.name == "stream EVENTS")
        .unwrap();
    assert_eq!(
        events.kept,
        [
            "max_age unlimited (needs 3888000 s)",
            "max_bytes 5368709120 bytes (needs 4294967296 bytes)"
        ]
    );
    assert_widened(&news(by_name(reports)));
    let events = stream(&client, EVENTS).await["config"].clone();
    for field in [
        "max_bytes",
        "max_age",
        "max_msg_size",
        "compression",
        "duplicate_window",
        "description",
    ] {
        assert_eq!(events[field], own[field], "{field}");
    }
    assert_eq!(events["metadata"]["team"], "video");
    let subjects = events["subjects"].as_array().unwrap();
    assert!(
        subjects.contains(&json!("acme.videos.*")) && subjects.contains(&json!("spotreel.alarm.>"))
    );
    let notifier = consumer(&client, TASKS, CONSUMER_NOTIFIER).await["config"].clone();
    assert_eq!(notifier["ack_wait"], own_of_notifier["ack_wait"]);
    assert_eq!(notifier["description"], "ours");
    assert_eq!(notifier["metadata"]["team"], "video");
    assert_eq!(notifier["max_ack_pending"], 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_takes_what_a_newer_one_made_and_leaves_it() {
    let nats = Nats::for_services().await;
    let client = nats.client("provision").await;
    let clients = nats.client("clients-provision").await;
    apply_clients(&clients, &Layout::default()).await.unwrap();
    let mut subjects = stream(&client, EVENTS).await["config"]["subjects"].clone();
    subjects
        .as_array_mut()
        .unwrap()
        .push("spotreel.newer.>".into());
    edit(&client, EVENTS, json!({ "subjects": subjects, "allow_msg_ttl": true, "max_bytes": 6_i64 << 30, "description": "newer" })).await;
    edit(
        &client,
        "KV_spotreel-controls",
        json!({ "max_msgs_per_subject": 16 }),
    )
    .await;
    edit(&clients, EVENTS, json!({ "max_bytes": 6_i64 << 30 })).await;
    edit_consumer(
        &client,
        TASKS,
        CONSUMER_NOTIFIER,
        json!({ "max_ack_pending": 100_000 }),
    )
    .await;
    let mut filters =
        consumer(&client, TASKS, "sweeper").await["config"]["filter_subjects"].clone();
    filters
        .as_array_mut()
        .unwrap()
        .push("spotreel.log.*.newer".into());
    edit_consumer(
        &client,
        TASKS,
        "sweeper",
        json!({ "filter_subjects": filters }),
    )
    .await;
    js(
        &client,
        "STREAM.CREATE.NEWER",
        &json!({ "name": "NEWER", "subjects": ["newer"], "storage": "file" }),
    )
    .await;

    let configs = async || {
        [
            stream(&client, EVENTS).await["config"].clone(),
            stream(&client, "KV_spotreel-controls").await["config"].clone(),
            consumer(&client, TASKS, CONSUMER_NOTIFIER).await["config"].clone(),
            consumer(&client, TASKS, "sweeper").await["config"].clone(),
        ]
    };
    let before = configs().await;
    assert!(news(applied(&client).await).is_empty());
    let mirror = apply_clients(&clients, &Layout::default()).await.unwrap();
    assert_eq!(mirror.outcome, ProvisionOutcome::AsWanted);
    assert_eq!(configs().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_do_the_same_once() {
    let nats = provisioned_before_alarms().await;
    let mut tries = Vec::new();
    for _ in 0..4 {
        let client = nats.client("provision").await;
        tries.push(tokio::spawn(async move { applied(&client).await }));
    }
    for one in tries {
        let reports = one.await.unwrap();
        let differs =
            |outcome: &ProvisionOutcome| matches!(outcome, ProvisionOutcome::Differs { .. });
        assert!(!reports.values().any(differs), "{reports:?}");
    }
    assert!(news(applied(&nats.client("provision").await).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_at_any_point_is_finished_by_the_next() {
    let nats = provisioned_before_alarms().await;
    let client = nats.client("provision").await;
    Logs::over(client.clone()).await.submit("t0").await;
    let mut killed = 0;
    // Longer each time: it ends at one point after the other.
    for step in 0..60 {
        let allowed = Duration::from_millis(2).mul_f64(1.25_f64.powi(step));
        match tokio::time::timeout(allowed, apply(&client, &Layout::default())).await {
            Ok(done) => {
                done.unwrap();
                break;
            }
            Err(_) => killed += 1,
        }
    }
    assert!(killed > 2, "it was killed {killed} times only");
    assert!(news(applied(&client).await).is_empty());
    let notifier = consumer(&client, TASKS, CONSUMER_NOTIFIER).await;
    assert_eq!(
        (
            &notifier["num_pending"],
            &notifier["config"]["max_ack_pending"]
        ),
        (&json!(1), &json!(50_000))
    );
}
