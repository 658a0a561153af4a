//! What is provisioned, and an operator's edits of it.

use std::collections::BTreeMap;

use async_nats::Client;
use serde_json::{Value, json};
use spotreel_bus::provision::{Layout, ProvisionOutcome, Report, apply};
use spotreel_test_kit::js;

pub async fn applied(client: &Client) -> BTreeMap<String, ProvisionOutcome> {
    by_name(apply(client, &Layout::default()).await.unwrap())
}

pub fn by_name(reports: Vec<Report>) -> BTreeMap<String, ProvisionOutcome> {
    let each = reports.into_iter().map(|one| (one.name, one.outcome));
    each.collect()
}

/// Everything that is not as wanted.
pub fn news(reports: BTreeMap<String, ProvisionOutcome>) -> BTreeMap<String, ProvisionOutcome> {
    let mut news = reports;
    news.retain(|_, outcome| *outcome != ProvisionOutcome::AsWanted);
    news
}

pub async fn stream(client: &Client, name: &str) -> Value {
    js(client, &format!("STREAM.INFO.{name}"), &json!({})).await
}

pub async fn consumer(client: &Client, stream: &str, name: &str) -> Value {
    js(
        client,
        &format!("CONSUMER.INFO.{stream}.{name}"),
        &json!({}),
    )
    .await
}

/// As an operator edits a stream with any tool.
pub async fn edit(client: &Client, name: &str, change: Value) {
    let mut config = stream(client, name).await["config"].clone();
    let fields = change.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(fields);
    js(client, &format!("STREAM.UPDATE.{name}"), &config).await;
}

pub async fn edit_consumer(client: &Client, of: &str, name: &str, change: Value) {
    let mut config = consumer(client, of, name).await["config"].clone();
    let fields = change.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(fields);
    config
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    let body = json!({ "stream_name": of, "config": config, "action": "update" });
    js(client, &format!("CONSUMER.CREATE.{of}.{name}"), &body).await;
}

/// Deletes a stream and makes it with other values.
pub async fn remake(client: &Client, name: &str, change: Value) {
    let mut config = stream(client, name).await["config"].clone();
    config
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    js(client, &format!("STREAM.DELETE.{name}"), &json!({})).await;
    js(client, &format!("STREAM.CREATE.{name}"), &config).await;
}

pub async fn remake_consumer(client: &Client, of: &str, name: &str, change: Value) {
    let mut config = consumer(client, of, name).await["config"].clone();
    config
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    config
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    js(client, &format!("CONSUMER.DELETE.{of}.{name}"), &json!({})).await;
    make_consumer(client, of, config).await;
}

pub async fn make_consumer(client: &Client, of: &str, config: Value) {
    let name = config["durable_name"].as_str().unwrap().to_owned();
    let body = json!({ "stream_name": of, "config": config, "action": "create" });
    js(client, &format!("CONSUMER.CREATE.{of}.{name}"), &body).await;
}
