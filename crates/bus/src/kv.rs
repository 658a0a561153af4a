//! The two buckets: what workers say of themselves, and marks that services leave for each other.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use prost::Message;
use spotreel_proto::worker::v1::Presence;

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{MARKS_BUCKET, WORKERS_BUCKET};

/// A worker that was not heard of for so long is not counted any more.
pub const PRESENCE_TTL: Duration = Duration::from_secs(60);

pub async fn put_presence(client: &Client, presence: &Presence) -> Result<(), ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", format!("{}s", PRESENCE_TTL.as_secs()).as_str());
    put(
        client,
        WORKERS_BUCKET,
        &presence.worker,
        headers,
        presence.encode_to_vec().into(),
    )
    .await
}

pub async fn remove_presence(client: &Client, worker: &str) -> Result<(), ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    put(client, WORKERS_BUCKET, worker, headers, Bytes::new()).await
}

pub async fn put_mark(
    client: &Client,
    name: &str,
    value: &serde_json::Value,
) -> Result<(), ApiError> {
    put(
        client,
        MARKS_BUCKET,
        name,
        HeaderMap::new(),
        value.to_string().into(),
    )
    .await
}

async fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    headers: HeaderMap,
    value: Bytes,
) -> Result<(), ApiError> {
    let subject = format!("$KV.{bucket}.{key}");
    jetstream::request::<PubAck>(client, &subject, headers, value, REQUEST_TIMEOUT)
        .await
        .map(drop)
}
