//! What operators have ordered: the bucket `spotreel-controls`, in which an order stays until it is taken back.

use std::collections::BTreeMap;

use async_nats::{Client, SubscribeError, Subscriber};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spotreel_domain::batch::PoolName;

use crate::bucket::{self, Bucket, BucketEntry, Terms};
use crate::jetstream::JetStreamError;
use crate::names::CONTROLS_BUCKET;

const HOLD: &str = "hold.";
const RUN: &str = "run.";

/// Nothing new is begun in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
    /// Fleet held it, under this configuration of the pool: another one lifts it. Absent: a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// The pool's queue shall run now, whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub by: String,
    pub at: Timestamp,
    pub id: String,
    /// Even though the pool is held.
    #[serde(default)]
    pub force: bool,
}

/// An order, and its revision in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingOrder<T> {
    pub order: T,
    pub revision: u64,
}

/// All that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    pub holds: BTreeMap<PoolName, StandingOrder<HoldRecord>>,
    pub runs: BTreeMap<PoolName, StandingOrder<RunRecord>>,
}

/// Everything in force, in one round trip. Any replica answers.
pub async fn all(client: &Client) -> Result<Controls, JetStreamError> {
    let mut controls = Controls::default();
    for entry in bucket::read(client, CONTROLS_BUCKET, &[">"]).await? {
        if let Some(pool) = entry.key.strip_prefix(HOLD) {
            keep(&mut controls.holds, pool, &entry)?;
        } else if let Some(pool) = entry.key.strip_prefix(RUN) {
            keep(&mut controls.runs, pool, &entry)?;
        }
    }
    Ok(controls)
}

/// An order that cannot be read is an error: a hold that is not understood must not be taken for none.
fn keep<T: DeserializeOwned>(
    orders: &mut BTreeMap<PoolName, StandingOrder<T>>,
    pool: &str,
    entry: &BucketEntry,
) -> Result<(), JetStreamError> {
    let (order, revision) = (entry.json()?, entry.revision);
    match PoolName::parse(pool) {
        Ok(pool) => {
            orders.insert(pool, StandingOrder { order, revision });
        }
        Err(error) => tracing::warn!(%error, pool, "order has an invalid pool name; ignored"),
    }
    Ok(())
}

pub async fn hold(
    client: &Client,
    pool: &PoolName,
    hold: &HoldRecord,
) -> Result<u64, JetStreamError> {
    holds(client)
        .put(pool.as_str(), hold, Terms::default())
        .await
}

/// Holds the pool unless a hold stands already. False: one does.
pub async fn hold_if_free(
    client: &Client,
    pool: &PoolName,
    hold: &HoldRecord,
) -> Result<bool, JetStreamError> {
    holds(client).put_if_none(pool.as_str(), hold).await
}

pub async fn resume(client: &Client, pool: &PoolName) -> Result<(), JetStreamError> {
    holds(client).delete(pool.as_str(), Terms::default()).await
}

/// Lifts the hold with this revision; a newer one stays, and is [`JetStreamError::Conflict`].
pub async fn lift(client: &Client, pool: &PoolName, revision: u64) -> Result<(), JetStreamError> {
    holds(client).delete(pool.as_str(), only(revision)).await
}

pub async fn run(client: &Client, pool: &PoolName, run: &RunRecord) -> Result<u64, JetStreamError> {
    runs(client).put(pool.as_str(), run, Terms::default()).await
}

/// Takes back the order with this revision; a newer one stays, and is [`JetStreamError::Conflict`].
pub async fn remove_run(
    client: &Client,
    pool: &PoolName,
    revision: u64,
) -> Result<(), JetStreamError> {
    runs(client).delete(pool.as_str(), only(revision)).await
}

/// A message for every change. It only wakes: what is in force, [`all`] tells.
pub async fn watch(client: &Client) -> Result<Subscriber, SubscribeError> {
    bucket::watch(client, CONTROLS_BUCKET).await
}

fn holds(client: &Client) -> Bucket<HoldRecord> {
    Bucket::new(client, CONTROLS_BUCKET, HOLD)
}

fn runs(client: &Client) -> Bucket<RunRecord> {
    Bucket::new(client, CONTROLS_BUCKET, RUN)
}

fn only(revision: u64) -> Terms {
    Terms {
        revision: Some(revision),
        ..Terms::default()
    }
}
