//! Streams and consumers as `spotreel provision` of an older version made them: before alarms, the ledger and webhooks, when
//! notifier published one event at a time.

use async_nats::Client;
use serde_json::Value;

use super::{Nats, client};

const PROVISIONED: &str = include_str!("../data/provisioned-before-alarms.json");

/// A server that the older version has provisioned in both accounts.
pub async fn provisioned_before_alarms() -> Nats {
    let nats = Nats::start().await;
    let older: Value = serde_json::from_str(PROVISIONED).expect("the file is JSON");
    let services = nats.client("provision").await;
    let list = |name: &str| older[name].as_array().cloned().unwrap_or_default();
    for stream in list("streams") {
        let name = stream["name"].as_str().unwrap_or_default();
        js(&services, &format!("STREAM.CREATE.{name}"), &stream).await;
    }
    for consumer in list("consumers") {
        let stream = consumer["stream_name"].as_str().unwrap_or_default();
        let name = &consumer["config"]["durable_name"];
        let subject = format!(
            "CONSUMER.CREATE.{stream}.{}",
            name.as_str().unwrap_or_default()
        );
        js(&services, &subject, &consumer).await;
    }
    let clients = client(&nats.url, "clients-provision").await;
    js(&clients, "STREAM.CREATE.EVENTS", &older["mirror"]).await;
    nats
}

/// A request to JetStream's API, as any tool of an operator makes it.
pub async fn js(client: &Client, subject: &str, body: &Value) -> Value {
    let subject = format!("$JS.API.{subject}");
    let answer = client.request(subject.clone(), body.to_string().into());
    let answer = answer.await.expect("the server answers");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("it answers in JSON");
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}
