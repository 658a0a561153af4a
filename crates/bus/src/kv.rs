//! The two buckets: what workers say of themselves, and marks that services leave for each other.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use spotreel_proto::worker::v1::Presence;

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{MARKS_BUCKET, WORKERS_BUCKET};

/// A worker that was not heard of for so long is not counted any more.
pub const PRESENCE_TTL: Duration = Duration::from_secs(60);

/// On the mark that a deleted key leaves.
const OPERATION: &str = "KV-Operation";

pub async fn put_presence(client: &Client, presence: &Presence) -> Result<(), ApiError> {
    put(
        client,
        WORKERS_BUCKET,
        &presence.worker,
        short_lived(),
        presence.encode_to_vec().into(),
    )
    .await
}

pub async fn remove_presence(client: &Client, worker: &str) -> Result<(), ApiError> {
    // The mark of the deletion goes too: every life of a worker has a name of its own.
    let mut headers = short_lived();
    headers.insert(OPERATION, "DEL");
    put(client, WORKERS_BUCKET, worker, headers, Bytes::new()).await
}

/// What all live workers say of themselves, in one round trip. Any replica answers.
///
/// The server refuses (413) above 1,024 of them.
pub async fn presences(client: &Client) -> Result<Vec<Presence>, ApiError> {
    let subject = format!("$JS.API.DIRECT.GET.KV_{WORKERS_BUCKET}");
    let unanswered = || ApiError::Unknown(subject.clone());
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| unanswered())?;
    let body = serde_json::json!({ "multi_last": [format!("$KV.{WORKERS_BUCKET}.>")] });
    client
        .publish_with_reply(subject.clone(), inbox, body.to_string().into())
        .await
        .map_err(|_| unanswered())?;
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await;
        let Ok(Some(message)) = next else {
            return Err(unanswered());
        };
        // Status messages end the answer: 204 that was all, 404 there is none.
        if let Some(status) = message.status {
            return match status.as_u16() {
                204 | 404 => Ok(found),
                503 => Err(ApiError::NoResponder(subject)),
                other => Err(ApiError::Refused {
                    code: other.into(),
                    description: message.description.unwrap_or_default(),
                }),
            };
        }
        let headers = message.headers.unwrap_or_default();
        if headers.get(OPERATION).is_some() {
            continue;
        }
        match Presence::decode(message.payload) {
            Ok(presence) => found.push(presence),
            Err(error) => tracing::warn!(%error, "a worker's presence cannot be read"),
        }
    }
}

fn short_lived() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", format!("{}s", PRESENCE_TTL.as_secs()).as_str());
    headers
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
