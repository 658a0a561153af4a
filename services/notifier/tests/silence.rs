//! Monitor's silence, which notifier tells in its place.

use std::time::Duration;

use jiff::SignedDuration;
use spotreel_bootstrap::{Config, ambient};
use spotreel_bus::AlarmRecord;
use spotreel_bus::jetstream::{self, Start};
use spotreel_bus::names::EVENTS;
use spotreel_domain::alarm::AlarmBoard;
use spotreel_notifier::{DEFAULTS, Deps, NotifierConfig};
use spotreel_s3::{Keys, Store};
use spotreel_test_kit::{Nats, context, stop, until};

#[tokio::test(flavor = "multi_thread")]
async fn monitors_silence_is_told_once_however_many_notifiers_run() {
    let nats = Nats::for_services().await;
    let client = nats.client("provision").await;
    let record = AlarmRecord::open(&client).await;
    let long_ago = ambient::now() - SignedDuration::from_mins(4);
    let board = AlarmBoard::new(long_ago);
    record.store(&board, 0).await.unwrap();
    let mut config: NotifierConfig = toml::from_str(DEFAULTS).unwrap();
    config.monitor_silence.every = Duration::from_millis(50);
    config.validate().unwrap();
    let told = async || {
        let page = jetstream::page(&client, EVENTS, "spotreel.alarm.>", Start::Sequence(1), 10);
        page.await.unwrap()
    };
    let mut running = Vec::new();
    for _ in 0..2 {
        let ctx = context("notifier");
        let store = Store::connect_with_keys(&config.s3, Keys::new("local", "secret")).await;
        let nats = nats.client("notifier").await;
        let started = spotreel_notifier::start(config.clone(), Deps { nats, store }, ctx.clone());
        started.await.unwrap();
        running.push(ctx);
    }
    until("it is told and noted", async || {
        let (_, board) = record.read().await.unwrap().unwrap();
        board.firing().count() == 1 && board.untold.is_empty()
    })
    .await;
    for ctx in &running {
        stop(ctx).await;
    }
    let told = told().await;
    let [event] = &told[..] else {
        panic!("{} events", told.len());
    };
    assert_eq!(event.subject, "spotreel.alarm.service_silent.firing");
    let event: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(event["data"]["about"], "monitor");
}
