//! The clients' copy of EVENTS: everything that was told, however much.

use std::time::Duration;

use serde_json::{Value, json};
use spotreel_bus::names::EVENTS;
use spotreel_tests::harness::{System, SystemOptions, eventually, tasks};

/// Four times what the server sends without an answer from the other side.
const BYTES: u64 = 8 << 20;
const AT_ONCE: usize = 25;

/// The largest task that is admitted: some 30 kB in each of its events.
fn largest() -> Value {
    let wide = "\u{1F98A}";
    let labels: serde_json::Map<String, Value> = (0..16)
        .map(|n| {
            (
                format!("{n:02}{}", wide.repeat(126)),
                json!(wide.repeat(128)),
            )
        })
        .collect();
    let mut task = tasks::small(&tasks::name("large"), 2);
    task["prompt"] = json!(wide.repeat(2_000));
    task["negative_prompt"] = json!(wide.repeat(2_000));
    task["labels"] = json!(labels);
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_client_gets_every_event_of_a_run_that_writes_many_megabytes() {
    let options = SystemOptions {
        workers: 0,
        ..SystemOptions::default()
    };
    let system = System::start(options).await;
    let api = system.api().await;
    let size = async |user: &str| {
        let context = async_nats::jetstream::new(system.nats.client(user).await);
        let stream = context.get_stream(EVENTS).await.expect("EVENTS is there");
        let state = stream.cached_info().state.clone();
        (state.bytes, state.last_sequence)
    };
    while size("provision").await.0 < BYTES {
        let tasks: Vec<Value> = (0..AT_ONCE).map(|_| largest()).collect();
        assert_eq!(api.submit_many(&tasks).await.refused, 0);
    }
    let soon = Duration::from_secs(60);
    eventually("the copy has all that EVENTS has", soon, || async {
        let (original, copy) = (size("provision").await, size("client").await);
        (copy.1 == original.1).then_some(())
    })
    .await;
}
