//! Orders that cross each other, and a server that was changed under notifier.

use async_nats::jetstream::consumer::push;
use serde_json::json;
use spotreel_bus::names::{self, EVENT_SUBJECTS};
use spotreel_test_kit::{metric, until};

use crate::receiver::Receiver;
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_recovery_leaves_no_delivery_without_a_queue() {
    let mut stage = Stage::begin(&[("webhooks.retries", "[]")]).await;
    let since = spotreel_bootstrap::ambient::now();
    let receiver = Receiver::good().await;
    receiver.answer_with(500);
    let (id, _) = stage.webhook(&receiver.url(), &["task.*"]).await;
    stage.publish("a", 3).await;
    until("they have failed", async || {
        stage.count(&id, "failed").await == 3
    })
    .await;
    stage.kill9().await;
    stage.set("webhooks.retries", "[\"1h\"]");
    stage.start();

    let recover = async |since| {
        let order = json!({ "id": id, "since": since });
        stage.order(names::OPS_WEBHOOK_RECOVER, order).await
    };
    until("notifier answers", async || stage.failing().await.is_none()).await;
    recover(since).await;
    until("the recovery has tried them", async || {
        stage.count(&id, "waiting").await == 3
    })
    .await;
    // A later event is not the recovery's: that ends one day, and the event would be in no queue.
    let later = spotreel_bootstrap::ambient::now();
    stage.publish("b", 1).await;
    until("the later one was tried", async || {
        stage.count(&id, "waiting").await == 4
    })
    .await;
    let log = stage.deliveries(&id).await;
    let again = log.iter().filter(|one| one["again"] == true);
    assert_eq!(again.count(), 3, "{log:?}");

    // What the first one holds is older than the second one asks for.
    receiver.answer_with(200);
    let merged = recover(later).await;
    assert_eq!(merged["recovering_since"], json!(since), "{merged}");
    until("those of the first are delivered", async || {
        stage.count(&id, "delivered").await == 3
    })
    .await;
    until("the recovery is over", async || {
        stage.list().await[0]["recovering_since"].is_null()
    })
    .await;
    // The endpoint's own queue goes on with the fourth.
    assert_eq!(stage.count(&id, "waiting").await, 1);
    assert_eq!(stage.list().await[0]["open"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_notice_that_cannot_be_published_disables_all_the_same_and_is_told_once() {
    let mut stage = Stage::begin(&[]).await;
    let old = ["spotreel.task.>", "spotreel.rejected.*", "spotreel.batch.>"];
    stage.let_events_have(&old).await;
    let receiver = Receiver::good().await;
    receiver.answer_with(410);
    stage.webhook(&receiver.url(), &["task.*"]).await;
    stage.publish("a", 1).await;
    until(
        "it is disabled, and the check says what is missing",
        async || {
            let reason = stage.failing().await.unwrap_or_default();
            stage.list().await[0]["state"] == "disabled" && reason.contains("spotreel.webhook.")
        },
    )
    .await;
    stage.kill9().await;
    stage.let_events_have(&EVENT_SUBJECTS).await;
    stage.start();
    until("the notice is told", async || {
        stage.failing().await.is_none() && !stage.notices().await.is_empty()
    })
    .await;
    stage.kill9().await;
    stage.start();
    until("the endpoints were looked at", async || {
        stage.failing().await.is_none()
    })
    .await;
    let notices = stage.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].0, "disabled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_that_was_deleted_on_the_server_is_made_again_and_the_check_fails_meanwhile() {
    let stage = Stage::begin(&[]).await;
    let receiver = Receiver::good().await;
    let (id, _) = stage.webhook(&receiver.url(), &["task.*"]).await;
    stage.publish("a", 1).await;
    until("it is delivered", async || {
        stage.count(&id, "delivered").await == 1
    })
    .await;

    // Something else has its name, so that it cannot be made at once.
    let (events, name) = (stage.events().await, format!("webhook-{id}"));
    let other = push::Config {
        durable_name: Some(name.clone()),
        deliver_subject: "elsewhere".to_owned(),
        ..Default::default()
    };
    until("something else has its name", async || {
        let _ = events.delete_consumer(&name).await;
        events.create_consumer(other.clone()).await.is_ok()
    })
    .await;
    until("the check fails", async || {
        stage
            .failing()
            .await
            .is_some_and(|reason| reason.contains(&name))
    })
    .await;
    stage.publish("b", 1).await;
    until("the backlog is measured", async || {
        let page = stage.metrics().await;
        let series = format!("spotreel_notifier_webhook_pending{{webhook=\"{id}\"}} ");
        page.contains(&series) && metric(&page, "spotreel_notifier_webhook_ack_pending").is_some()
    })
    .await;

    events.delete_consumer(&name).await.unwrap();
    until("it was made again", async || {
        stage.count(&id, "delivered").await == 2 && stage.failing().await.is_none()
    })
    .await;
    // The log of deliveries knows the first.
    assert_eq!(receiver.received().len(), 2);
}
