//! What operators have ordered: the bucket `spotreel-controls`, in which an order stays until it is taken back.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::batch::PoolName;

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError, PubAck};
use crate::names::{CONTROLS_BUCKET, HEADER_EXPECTED};

/// On the mark that a deleted key leaves.
const OPERATION: &str = "KV-Operation";

/// Nothing new is begun in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
    /// Fleet held it, under this configuration of the pool: another one lifts it. Absent: a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// The pool's queue shall run now, whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub by: String,
    pub at: Timestamp,
    pub id: String,
    /// Even though the pool is held.
    #[serde(default)]
    pub force: bool,
}

/// An order, and its revision in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered<T> {
    pub order: T,
    pub revision: u64,
}

/// All that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    pub holds: BTreeMap<PoolName, Ordered<Hold>>,
    pub runs: BTreeMap<PoolName, Ordered<Run>>,
}

/// Everything in force, in one round trip. Any replica answers.
pub async fn all(client: &Client) -> Result<Controls, ApiError> {
    let query = serde_json::json!({ "multi_last": [subject(">")] });
    let stored = jetstream::direct_get(client, &format!("KV_{CONTROLS_BUCKET}"), &query).await?;
    let mut controls = Controls::default();
    for one in stored {
        if one.headers.get(OPERATION).is_some() {
            continue;
        }
        let key = one.subject.trim_start_matches(&subject(""));
        if let Some(pool) = key.strip_prefix("hold.") {
            keep(&mut controls.holds, pool, one.sequence, &one.payload)?;
        } else if let Some(pool) = key.strip_prefix("run.") {
            keep(&mut controls.runs, pool, one.sequence, &one.payload)?;
        }
    }
    Ok(controls)
}

/// An order that cannot be read is an error: a hold that is not understood must not be taken for none.
fn keep<T: serde::de::DeserializeOwned>(
    orders: &mut BTreeMap<PoolName, Ordered<T>>,
    pool: &str,
    revision: u64,
    payload: &[u8],
) -> Result<(), ApiError> {
    let order = serde_json::from_slice(payload)?;
    match PoolName::parse(pool) {
        Ok(pool) => {
            orders.insert(pool, Ordered { order, revision });
        }
        Err(error) => tracing::warn!(%error, pool, "order has an invalid pool name; ignored"),
    }
    Ok(())
}

pub async fn hold(client: &Client, pool: &PoolName, hold: &Hold) -> Result<u64, ApiError> {
    put(client, &format!("hold.{pool}"), hold).await
}

pub async fn resume(client: &Client, pool: &PoolName) -> Result<(), ApiError> {
    remove(client, &format!("hold.{pool}"), None).await
}

/// Lifts the hold with this revision; a newer one stays, and is [`ApiError::Conflict`].
pub async fn lift(client: &Client, pool: &PoolName, revision: u64) -> Result<(), ApiError> {
    remove(client, &format!("hold.{pool}"), Some(revision)).await
}

pub async fn run(client: &Client, pool: &PoolName, run: &Run) -> Result<u64, ApiError> {
    put(client, &format!("run.{pool}"), run).await
}

/// Takes back the order with this revision; a newer one stays, and is [`ApiError::Conflict`].
pub async fn remove_run(client: &Client, pool: &PoolName, revision: u64) -> Result<(), ApiError> {
    remove(client, &format!("run.{pool}"), Some(revision)).await
}

/// A message for every change. It only wakes: what is in force, [`all`] tells.
pub async fn watch(client: &Client) -> Result<Subscriber, async_nats::SubscribeError> {
    client.subscribe(subject(">")).await
}

async fn put(client: &Client, key: &str, order: &impl Serialize) -> Result<u64, ApiError> {
    let payload = serde_json::to_vec(order)?;
    store(client, key, HeaderMap::new(), payload.into()).await
}

async fn remove(client: &Client, key: &str, revision: Option<u64>) -> Result<(), ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(OPERATION, "DEL");
    if let Some(revision) = revision {
        headers.insert(HEADER_EXPECTED, revision.to_string().as_str());
    }
    store(client, key, headers, Bytes::new()).await.map(drop)
}

async fn store(
    client: &Client,
    key: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<u64, ApiError> {
    jetstream::request::<PubAck>(client, &subject(key), headers, payload, REQUEST_TIMEOUT)
        .await
        .map(|ack| ack.seq)
}

fn subject(key: &str) -> String {
    format!("$KV.{CONTROLS_BUCKET}.{key}")
}
