//! Two of the buckets: what workers say of themselves and are told before they begin, and marks that services leave for
//! each other. What people have ordered is in [`controls`](crate::controls).

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use prost::Message;
use serde::Deserialize;
use spotreel_proto::worker::v1::Presence;

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{MARKS_BUCKET, WORKERS_BUCKET};

/// Time after which a silent worker is no longer counted.
pub const PRESENCE_TTL: Duration = Duration::from_secs(60);

/// Longer than any machine boots.
const ORDER_TTL: Duration = Duration::from_secs(3600);

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
    let query = serde_json::json!({ "multi_last": [format!("$KV.{WORKERS_BUCKET}.*")] });
    let stream = format!("KV_{WORKERS_BUCKET}");
    let all = jetstream::direct_get(client, &stream, &query);
    let (all, now) = futures::try_join!(all, server_time(client))?;
    let mut found = Vec::new();
    for stored in all {
        if stored.headers.get(OPERATION).is_some() || !is_recent(stored.stored_at, now) {
            continue;
        }
        match Presence::decode(stored.payload) {
            Ok(presence) => found.push(presence),
            Err(error) => tracing::warn!(%error, "presence record cannot be decoded"),
        }
    }
    Ok(found)
}

/// Whether a worker that said so then still counts. The server removes what is older than its TTL; but one that was killed and
/// started again (2.15.1) has been seen to remove nothing any more, and then a dead worker would render its task for ever.
fn is_recent(stored_at: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(stored_at)).unwrap_or_default() < PRESENCE_TTL
}

/// By the clock that stamps what is stored: the reader's own may be wrong.
async fn server_time(client: &Client) -> Result<Timestamp, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        ts: Timestamp,
    }
    let api = format!("$JS.API.STREAM.INFO.KV_{WORKERS_BUCKET}");
    let (headers, nothing) = (HeaderMap::new(), Bytes::new());
    let info: Info = jetstream::request(client, &api, headers, nothing, REQUEST_TIMEOUT).await?;
    Ok(info.ts)
}

/// What one worker says of itself, read at the leader; none if it has not been heard of for a while.
pub async fn presence(client: &Client, worker: &str) -> Result<Option<Presence>, ApiError> {
    #[derive(Deserialize)]
    struct Found {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        time: Timestamp,
        #[serde(default)]
        data: String,
    }
    let api = format!("$JS.API.STREAM.MSG.GET.KV_{WORKERS_BUCKET}");
    let query = serde_json::json!({ "last_by_subj": format!("$KV.{WORKERS_BUCKET}.{worker}") });
    let (headers, body) = (HeaderMap::new(), query.to_string().into());
    let found = jetstream::request::<Found>(client, &api, headers, body, REQUEST_TIMEOUT).await;
    let found = match found {
        Ok(found) => found.message,
        Err(ApiError::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !is_recent(found.time, server_time(client).await?) {
        return Ok(None);
    }
    // The mark of a deletion is empty.
    let bytes = BASE64.decode(found.data).unwrap_or_default();
    Ok(Presence::decode(bytes.as_slice())
        .ok()
        .filter(|presence| !presence.worker.is_empty()))
}

/// Says for good that the worker of a machine shall never begin: for one that is not there yet to be asked. Whoever
/// starts on that machine reads it after it has begun to listen and before it takes anything, so that either the
/// question reaches it or this does.
pub async fn order_out(client: &Client, instance: &str) -> Result<(), ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", format!("{}s", ORDER_TTL.as_secs()).as_str());
    let key = format!("out.{instance}");
    put(
        client,
        WORKERS_BUCKET,
        &key,
        headers,
        Bytes::from_static(b"out"),
    )
    .await
}

/// Read at the leader: a replica may not have it yet.
pub async fn is_ordered_out(client: &Client, instance: &str) -> Result<bool, ApiError> {
    let subject = format!("$KV.{WORKERS_BUCKET}.out.{instance}");
    let query = serde_json::json!({ "last_by_subj": subject });
    let api = format!("$JS.API.STREAM.MSG.GET.KV_{WORKERS_BUCKET}");
    let body = query.to_string().into();
    match jetstream::request::<serde_json::Value>(
        client,
        &api,
        HeaderMap::new(),
        body,
        REQUEST_TIMEOUT,
    )
    .await
    {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound) => Ok(false),
        Err(error) => Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_died_is_forgotten_also_where_the_server_keeps_its_word() {
        let said: Timestamp = "2026-11-30T10:09:08Z".parse().unwrap();
        let after = |span| said + span;
        assert!(is_recent(said, said));
        assert!(is_recent(said, after(PRESENCE_TTL / 2)));
        assert!(!is_recent(said, after(PRESENCE_TTL)));
        let leader_changed = said - Duration::from_secs(1);
        assert!(is_recent(said, leader_changed), "another server's clock");
    }
}
