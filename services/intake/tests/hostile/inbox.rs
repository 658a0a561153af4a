//! The same through the inbox, where nobody waits for an answer: the refusal is an event, and the message goes.

use std::collections::HashMap;

use serde_json::{Value, json};
use spotreel_bus::names::{EVENTS, INBOX};

use super::case::STEERING;
use super::stage::{Stage, until};
use super::wire::{UNREADABLE, Wire};
use super::{first_violation, table};

/// Number of cases of the table that are sent, at least.
const AT_LEAST: usize = 260;
/// Cases of this size or more are not sent: they have the same rules, and fill the stream.
const MIB: usize = 1 << 20;

/// What JetStream says to a publish: the sequence, or why not.
async fn stored(wire: &mut Wire, headers: &[u8], payload: &[u8]) -> Result<u64, String> {
    wire.publish("spotreel.inbox", "_INBOX.hand.1", headers, payload)
        .await;
    let answer = wire.message().await;
    let start = answer.iter().position(|byte| *byte == b'{').unwrap();
    let answer: Value = serde_json::from_slice(&answer[start..]).unwrap();
    match answer["seq"].as_u64() {
        Some(sequence) if answer["error"].is_null() => Ok(sequence),
        _ => Err(answer["error"]["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned()),
    }
}

/// The refusal of an inbox message, once it is there.
async fn rejection(stage: &Stage, sequence: u64) -> Value {
    let context = async_nats::jetstream::new(stage.root.clone());
    let events = context.get_stream_no_info(EVENTS).await.unwrap();
    let subject = format!("spotreel.rejected.{sequence}");
    let mut found = None;
    until(&format!("{subject} is there"), async || {
        found = events.get_last_raw_message_by_subject(&subject).await.ok();
        found.is_some()
    })
    .await;
    serde_json::from_slice(&found.unwrap().payload).unwrap()
}

/// All refusals of inbox messages, by the messages' sequences. Those of messages with an id are events of its task.
async fn rejections(stage: &Stage) -> HashMap<u64, Value> {
    let context = async_nats::jetstream::new(stage.root.clone());
    let events = context.get_stream_no_info(EVENTS).await.unwrap();
    let last = events.get_info().await.unwrap().state.last_sequence;
    let mut found = HashMap::new();
    for sequence in 1..=last {
        let event = events.get_raw_message(sequence).await.unwrap();
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        found.insert(event["data"]["inbox_sequence"].as_u64().unwrap(), event);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_table_is_rejected_and_goes() {
    let stage = Stage::set().await;
    let mut wire = Wire::open(&stage, "client").await;
    let mut cases = table::submissions();
    cases.retain(|case| case.payload.len() < MIB);
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    let mut sequences = Vec::new();
    for case in &cases {
        sequences.push(stored(&mut wire, b"", &case.payload).await.unwrap());
    }
    emptied(&stage).await;
    let rejections = rejections(&stage).await;
    assert_eq!(rejections.len(), cases.len());
    let mut wrong = Vec::new();
    for (case, sequence) in cases.iter().zip(sequences) {
        let Some(event) = rejections.get(&sequence) else {
            wrong.push(format!("{}: there is no event", case.name));
            continue;
        };
        let (code, field, rule) = first_violation(&event["data"]["error"]);
        if (code.as_str(), &field, rule.as_str()) != ("invalid", &case.field, case.rule) {
            let (name, wanted) = (&case.name, (&case.field, case.rule));
            wrong.push(format!("{name}: wanted {wanted:?}, got {event}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(stage.messages().await, 0);
}

/// Headers by which a publisher steers JetStream: refused by the server, or without effect.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_steers_the_stream() {
    let stage = Stage::without_intake().await;
    let mut wire = Wire::open(&stage, "client").await;
    let good = |id: &str| json!({"model": "ti2v-5B", "prompt": "x", "id": id}).to_string();
    stored(&mut wire, b"", good("good").as_bytes())
        .await
        .unwrap();
    let mut refused = Vec::new();
    for (name, value) in STEERING {
        let headers = format!("NATS/1.0\r\n{name}: {value}\r\n\r\n");
        if stored(&mut wire, headers.as_bytes(), b"{}").await.is_err() {
            refused.push(name);
        }
    }
    for name in [
        "Nats-Expected-Stream",
        "Nats-Expected-Last-Sequence",
        "Nats-Rollup",
        "Nats-TTL",
        "Nats-Schedule",
    ] {
        assert!(
            refused.contains(&name),
            "{name} was taken; refused were {refused:?}"
        );
    }
    // The same message id once more: the server drops it, and the first one stands.
    let twice = b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n";
    stored(&mut wire, twice, good("second").as_bytes())
        .await
        .unwrap();
    stage.start_intake(&[]).await;
    emptied(&stage).await;
    assert_eq!(
        stage.ask("get", r#"{"id":"good"}"#).await["state"],
        "queued"
    );
    assert_eq!(
        stage.ask("get", r#"{"id":"second"}"#).await["error"]["code"],
        "not_found"
    );
    assert_eq!(
        stage.ask("get", r#"{"id":"forged"}"#).await["error"]["code"],
        "not_found"
    );
    assert_eq!(stage.messages().await, 1);
}

/// If it cut the connection of whom it is delivered to, it would come again for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_no_poison() {
    let stage = Stage::without_intake().await;
    let mut wire = Wire::open(&stage, "client").await;
    let mut unread = Vec::new();
    for headers in UNREADABLE {
        unread.push(stored(&mut wire, headers, b"{}").await.unwrap());
    }
    for status in [
        "404 No Messages",
        "408 Request Timeout",
        "409 Leadership Change",
        "503",
        "100 Idle Heartbeat",
    ] {
        let headers = format!("NATS/1.0 {status}\r\n\r\n");
        stored(&mut wire, headers.as_bytes(), b"{}").await.unwrap();
    }
    let good = json!({"model": "ti2v-5B", "prompt": "x", "id": "good"}).to_string();
    stored(&mut wire, b"", good.as_bytes()).await.unwrap();
    stage.start_intake(&[]).await;
    emptied(&stage).await;
    for sequence in unread {
        let event = rejection(&stage, sequence).await;
        assert_eq!(event["data"]["error"]["code"], "invalid", "{event}");
    }
    assert_eq!(
        stage.ask("get", r#"{"id":"good"}"#).await["state"],
        "queued"
    );
    assert_eq!(stage.messages().await, 1);
}

async fn emptied(stage: &Stage) {
    until("the inbox is empty", async || {
        stage.stream(INBOX).await == 0
    })
    .await;
}
