//! Webhooks with a real nats-server, notifier as a program that is killed, and real receivers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod faults;
mod receiver;
mod stage;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use receiver::{Manner, Receiver};
use serde_json::{Value, json};
use spotreel_bus::names;
use spotreel_test_kit::{always, eventually, until};
use stage::Stage;

/// For what takes a lease or some tries.
const PATIENCE: Duration = Duration::from_secs(90);

async fn receives(receiver: &Receiver, count: usize) {
    let what = format!("{count} requests have arrived");
    eventually(&what, PATIENCE, || async {
        (receiver.received().len() >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_is_signed_tried_again_and_survives_a_kill() {
    let receiver = Receiver::good().await;
    receiver.answer_with(500);
    let mut stage = Stage::begin(&[("webhooks.retries", "[\"3s\", \"200ms\", \"200ms\"]")]).await;
    let (id, secret) = stage.webhook(&receiver.url(), &["task.succeeded"]).await;
    stage.succeed("fox", None).await;
    receives(&receiver, 1).await;
    until("the failure is in the log", async || {
        stage
            .deliveries(&id)
            .await
            .iter()
            .any(|one| one["state"] == "waiting")
    })
    .await;

    stage.kill9().await;
    receiver.answer_with(204);
    stage.start();
    receives(&receiver, 2).await;
    until("the delivery is in the log", async || {
        stage.deliveries(&id).await[0]["state"] == "delivered"
    })
    .await;
    let log = stage.deliveries(&id).await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(
        (&log[0]["tries"], &log[0]["status"]),
        (&json!(2), &json!(204))
    );

    let requests = receiver.received();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        request.verify(&secret);
        assert_eq!(
            request.header("content-type"),
            "application/cloudevents+json"
        );
        let event = request.json();
        assert_eq!(event["type"], "io.spotreel.task.succeeded.v1");
        assert_eq!(event["id"], request.header("webhook-id").as_str());
        let url = event["data"]["video"]["url"].as_str().unwrap();
        assert!(
            url.contains("renders/fox/1/2.mp4?") && url.contains("X-Amz-Signature"),
            "{url}"
        );
    }
    // Signed and presigned anew.
    let of = |n: usize, pointer: &str| requests[n].json().pointer(pointer).cloned().unwrap();
    assert_eq!(of(0, "/id"), of(1, "/id"));
    assert_ne!(of(0, "/data/video/url"), of(1, "/data/video/url"));
    assert_ne!(
        requests[0].header("webhook-timestamp"),
        requests[1].header("webhook-timestamp")
    );
    assert!(!stage.said().contains("hidden"), "a URL is not logged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_reaches_a_good_receiver_through_kills_whatever_the_others_do() {
    const EVENTS: u64 = 2_000;
    const KILLS: usize = 4;
    let mut stage = Stage::begin(&[]).await;
    let good = Receiver::begin(Manner::Answers, Duration::from_millis(5)).await;
    let failing = Receiver::good().await;
    failing.answer_with(500);
    let mut bad = vec![failing];
    for manner in [
        Manner::Hangs,
        Manner::Resets,
        Manner::Redirects,
        Manner::TenMegabytes,
    ] {
        bad.push(Receiver::begin(manner, Duration::ZERO).await);
    }
    let (good_id, secret) = stage.webhook(&good.url(), &["task.*"]).await;
    for receiver in &bad {
        stage.webhook(&receiver.url(), &["task.*"]).await;
    }
    let ids: BTreeSet<_> = stage.publish("e", EVENTS).await.into_iter().collect();
    for kill in 1..=KILLS {
        let before = good.ids().len();
        eventually("some more have arrived", PATIENCE, || async {
            let arrived = good.ids().len();
            (arrived >= before + 200).then_some(())
        })
        .await;
        stage.kill9().await;
        if kill == KILLS / 2 {
            stage.nats.crash().await;
        }
        stage.start();
    }
    eventually("all have arrived", PATIENCE, || async {
        (good.ids() == ids).then_some(())
    })
    .await;
    until("the queue is empty", async || {
        let list = stage.list().await;
        let good = list
            .iter()
            .find(|one| one["id"] == good_id.as_str())
            .unwrap();
        (&good["waiting"], &good["open"]) == (&json!(0), &json!(0))
    })
    .await;
    let received = good.received();
    let twice = received.len() - ids.len();
    println!(
        "{} requests for {} events: {twice} duplicates",
        received.len(),
        ids.len()
    );
    // Each kill may catch as many as are sent at a time.
    assert!(twice <= KILLS * 4, "{twice} duplicates");
    assert!(
        twice * 100 < ids.len(),
        "{twice} duplicates of {}",
        ids.len()
    );
    received.iter().for_each(|request| request.verify(&secret));
    for receiver in &bad {
        assert!(
            receiver.most_at_once() <= 4 + 1,
            "{} at a time",
            receiver.most_at_once()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_receiver_holds_up_nobody_else() {
    let stage = Stage::begin(&[]).await;
    let slow = Receiver::begin(Manner::Hangs, Duration::ZERO).await;
    let good = Receiver::good().await;
    stage.webhook(&slow.url(), &["task.*"]).await;
    stage.webhook(&good.url(), &["task.*"]).await;
    stage.publish("e", 100).await;
    let began = Instant::now();
    receives(&good, 100).await;
    println!("100 events after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));
    // Alone it would have had as many tries as fit its deadline of 1 s; and it is left alone after some.
    assert!(slow.received().len() < 60, "{}", slow.received().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tasks_end_goes_to_its_own_url_and_slow_hosts_hold_up_no_other() {
    let stage = Stage::begin(&[]).await;
    let slow = Receiver::begin(Manner::Hangs, Duration::ZERO).await;
    let good = Receiver::good().await;
    for n in 0..12 {
        stage
            .succeed(&format!("slow{n}"), Some(&slow.url_as("127.0.0.1")))
            .await;
    }
    stage.succeed("none", None).await;
    // Another host, though it is the same machine.
    stage.succeed("mine", Some(&good.url_as("localhost"))).await;
    receives(&good, 1).await;
    let request = &good.received()[0];
    let secret = stage.order(names::OPS_WEBHOOK_SECRET, json!({})).await;
    let secret = secret["secret"].as_str().unwrap().to_owned();
    request.verify(&secret);
    let event = request.json();
    assert_eq!(
        (&event["data"]["id"], &event["type"]),
        (&json!("mine"), &json!("io.spotreel.task.succeeded.v1"))
    );
    assert!(slow.most_at_once() <= 4, "{}", slow.most_at_once());
    until("the delivery is in the log", async || {
        let log = stage.deliveries("callbacks").await;
        log.iter()
            .any(|one| one["state"] == "delivered" && one["event"] == event["id"])
    })
    .await;

    // A new secret signs beside the former one.
    let order = json!({ "rotate": true });
    let rotated = stage.order(names::OPS_WEBHOOK_SECRET, order).await["secret"].clone();
    assert_ne!(rotated, secret.as_str());
    stage.succeed("next", Some(&good.url_as("localhost"))).await;
    receives(&good, 2).await;
    let request = &good.received()[1];
    request.verify(&secret);
    request.verify(rotated.as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gone_disables_with_a_notice_and_an_enabled_endpoint_misses_nothing() {
    let stage = Stage::begin(&[]).await;
    let receiver = Receiver::good().await;
    receiver.answer_with(410);
    let (id, _) = stage.webhook(&receiver.url(), &["task.*"]).await;
    let mut ids: BTreeSet<_> = stage.publish("a", 3).await.into_iter().collect();
    until("it is disabled", async || {
        stage.list().await[0]["state"] == "disabled"
    })
    .await;
    let notices = stage.notices().await;
    let names: Vec<_> = notices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["disabled"], "{notices:?}");
    let data = &notices[0].1;
    assert_eq!(
        (&data["id"], &data["host"]),
        (&json!(id), &json!("127.0.0.1"))
    );
    assert!(!data.to_string().contains("hidden"), "{data}");

    ids.extend(stage.publish("b", 3).await);
    let tried = receiver.received().len();
    always(
        "nothing is sent to a disabled endpoint",
        Duration::from_secs(2),
        || async { receiver.received().len() <= tried + 4 },
    )
    .await;
    receiver.answer_with(200);
    let before = receiver.received().len();
    stage
        .order(names::OPS_WEBHOOK_ENABLE, json!({ "id": id }))
        .await;
    eventually("all have arrived", PATIENCE, || async {
        let since: BTreeSet<_> = receiver.received()[before..]
            .iter()
            .map(|request| request.header("webhook-id"))
            .collect();
        (since == ids).then_some(())
    })
    .await;
    assert_eq!(stage.list().await[0]["state"], "active");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn long_failures_warn_once_and_then_disable_once() {
    let mut stage = Stage::begin(&[
        ("webhooks.warn_after", "3s"),
        ("webhooks.disable_after", "8s"),
        ("webhooks.retries", "[\"500ms\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\"]"),
    ])
    .await;
    let receiver = Receiver::good().await;
    receiver.answer_with(500);
    stage.webhook(&receiver.url(), &["task.*"]).await;
    stage.publish("e", 40).await;
    until("it fails", async || {
        stage.list().await[0]["state"] == "failing"
    })
    .await;
    stage.kill9().await;
    stage.start();
    until("it is disabled", async || {
        stage.list().await[0]["state"] == "disabled"
    })
    .await;
    let notices = stage.notices().await;
    let names: Vec<_> = notices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["failing", "disabled"], "{notices:?}");
    let since: Vec<_> = notices
        .iter()
        .map(|(_, data)| &data["failing_since"])
        .collect();
    assert_eq!(since[0], since[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_delivery_is_sent_again_by_order_and_a_recovery_sends_all_that_is_missing() {
    let stage = Stage::begin(&[("webhooks.retries", "[\"100ms\"]")]).await;
    let receiver = Receiver::good().await;
    let (id, secret) = stage.webhook(&receiver.url(), &["task.*"]).await;
    stage.publish("a", 3).await;
    until("they are delivered", async || {
        stage
            .deliveries(&id)
            .await
            .iter()
            .filter(|one| one["state"] == "delivered")
            .count()
            == 3
    })
    .await;
    let since = spotreel_bootstrap::ambient::now();
    receiver.answer_with(500);
    let lost: BTreeSet<_> = stage.publish("b", 4).await.into_iter().collect();
    let failed = eventually("they have failed", PATIENCE, || async {
        let log = stage.deliveries(&id).await;
        let failed: Vec<_> = log
            .into_iter()
            .filter(|one| one["state"] == "failed")
            .collect();
        (failed.len() == 4).then_some(failed)
    })
    .await;
    assert_eq!(
        (&failed[0]["tries"], &failed[0]["reason"]),
        (&json!(2), &json!("answered 500"))
    );

    // One by order: its result is the answer.
    let order = |one: &Value| json!({ "id": id, "sequence": one["sequence"] });
    let still = stage
        .order(names::OPS_WEBHOOK_RESEND, order(&failed[0]))
        .await;
    assert_eq!(
        (&still["state"], &still["tries"]),
        (&json!("failed"), &json!(3))
    );
    receiver.answer_with(200);
    let before = receiver.received().len();
    let sent = stage
        .order(names::OPS_WEBHOOK_RESEND, order(&failed[0]))
        .await;
    assert_eq!(sent["state"], "delivered");
    assert_eq!(receiver.received().len(), before + 1);

    // The others by a recovery, and none of them twice.
    let recover = json!({ "id": id, "since": since });
    stage.order(names::OPS_WEBHOOK_RECOVER, recover).await;
    eventually("the recovery is done", PATIENCE, || async {
        stage.list().await[0]["recovering_since"]
            .is_null()
            .then_some(())
    })
    .await;
    let received = receiver.received();
    let again: Vec<_> = received[before..]
        .iter()
        .map(|request| request.header("webhook-id"))
        .collect();
    assert_eq!(again.len(), 4, "{again:?}");
    assert_eq!(again.into_iter().collect::<BTreeSet<_>>(), lost);
    received.iter().for_each(|request| request.verify(&secret));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn orders_are_checked_and_a_deleted_endpoint_leaves_nothing() {
    let stage = Stage::begin(&[]).await;
    let create = async |order: Value| stage.order(names::OPS_WEBHOOK_CREATE, order).await;
    for (order, field) in [
        (json!({}), "url"),
        (json!({ "url": "http://10.0.0.1/" }), "url"),
        (json!({ "url": "http://169.254.169.254/" }), "url"),
        (
            json!({ "url": "https://example.org/", "events": ["task.done"] }),
            "events[0]",
        ),
        (
            json!({ "url": "https://example.org/", "owner": "Anna!" }),
            "owner",
        ),
    ] {
        let refused = create(order.clone()).await;
        assert_eq!(refused["error"]["code"], "invalid", "{order}: {refused}");
        assert_eq!(refused["error"]["violations"][0]["field"], field, "{order}");
    }
    let receiver = Receiver::good().await;
    let (id, secret) = stage.webhook(&receiver.url(), &["task.queued"]).await;
    stage.publish("e", 1).await;
    receives(&receiver, 1).await;
    let rotated = stage
        .order(names::OPS_WEBHOOK_ROTATE, json!({ "id": id }))
        .await;
    let rotated = rotated["secret"].as_str().unwrap();
    assert_ne!(rotated, secret);
    let mut published = 0;
    until("the new secret is known", async || {
        published += 1;
        stage.publish(&format!("r{published}-"), 1).await;
        let received = receiver.received();
        received
            .last()
            .is_some_and(|request| request.header("webhook-signature").contains(' '))
    })
    .await;
    let last = receiver.received().pop().unwrap();
    last.verify(&secret);
    last.verify(rotated);

    let list = stage.list().await.remove(0);
    assert!(!list.to_string().contains("whsec_"), "{list}");
    stage
        .order(names::OPS_WEBHOOK_DELETE, json!({ "id": id }))
        .await;
    assert!(stage.list().await.is_empty());
    let gone = stage
        .order(names::OPS_WEBHOOK_ROTATE, json!({ "id": id }))
        .await;
    assert_eq!(gone["error"]["code"], "not_found");
    let context = async_nats::jetstream::new(stage.logs.client.clone());
    let events = context.get_stream(names::EVENTS).await.unwrap();
    until("its queue is gone", async || {
        events.consumer_info(format!("webhook-{id}")).await.is_err()
    })
    .await;
    let differs = stage.provisioned_again().await;
    let differs: Vec<_> = differs
        .iter()
        .filter(|one| one.outcome != spotreel_bus::provision::ProvisionOutcome::AsWanted)
        .collect();
    assert!(differs.is_empty(), "{differs:?}");
}
