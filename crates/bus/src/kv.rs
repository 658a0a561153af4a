//! Two of the buckets: what workers say of themselves and are told before they begin, and marks that services leave for
//! each other. What people have ordered is in [`controls`](crate::controls).

use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spotreel_domain::time::elapsed;
use spotreel_proto::worker::v1::Presence;

use crate::bucket::{self, Bucket, Protobuf, Terms};
use crate::jetstream::{self, JetStreamError};
use crate::names::{MARKS_BUCKET, WORKERS_BUCKET};

/// Time after which a silent worker is no longer counted.
pub const PRESENCE_TTL: Duration = Duration::from_secs(60);

/// Longer than any machine boots.
const ORDER_TTL: Duration = Duration::from_secs(3600);

pub async fn put_presence(client: &Client, presence: &Presence) -> Result<(), JetStreamError> {
    let bucket = workers(client);
    let put = bucket.put(&presence.worker, presence, for_a(PRESENCE_TTL));
    put.await.map(drop)
}

pub async fn remove_presence(client: &Client, worker: &str) -> Result<(), JetStreamError> {
    // The mark of the deletion goes too: every life of a worker has a name of its own.
    workers(client).delete(worker, for_a(PRESENCE_TTL)).await
}

/// What all live workers say of themselves, in one round trip. Any replica answers.
///
/// The server refuses (413) above 1,024 of them.
pub async fn presences(client: &Client) -> Result<Vec<Presence>, JetStreamError> {
    let all = bucket::read(client, WORKERS_BUCKET, &["*"]);
    let (all, now) = futures::try_join!(all, server_time(client))?;
    let recent = all.iter().filter(|said| is_recent(said.stored_at, now));
    let mut found = Vec::new();
    for said in recent {
        match said.protobuf() {
            Ok(presence) => found.push(presence),
            Err(error) => tracing::warn!(%error, "presence record cannot be decoded"),
        }
    }
    Ok(found)
}

/// A message for every word of a worker, and for every [`order_out`].
pub async fn watch_workers(client: &Client) -> Result<Subscriber, SubscribeError> {
    bucket::watch(client, WORKERS_BUCKET).await
}

/// The worker of which a message of [`watch_workers`] tells.
pub fn worker_of(subject: &str) -> Option<&str> {
    bucket::key_of(WORKERS_BUCKET, subject)
}

/// Whether a worker that said so then still counts. The server removes what is older than its TTL; but one that was killed and
/// started again (2.15.1) has been seen to remove nothing any more, and then a dead worker would render its task for ever.
fn is_recent(stored_at: Timestamp, now: Timestamp) -> bool {
    elapsed(stored_at, now) < PRESENCE_TTL
}

/// By the clock that stamps what is stored: the reader's own may be wrong.
async fn server_time(client: &Client) -> Result<Timestamp, JetStreamError> {
    #[derive(Deserialize)]
    struct Info {
        ts: Timestamp,
    }
    let info: Info = jetstream::stream_info(client, &bucket::stream(WORKERS_BUCKET)).await?;
    Ok(info.ts)
}

/// What one worker says of itself, read at the leader; none if it has not been heard of for a while.
pub async fn presence(client: &Client, worker: &str) -> Result<Option<Presence>, JetStreamError> {
    let Some(said) = workers(client).get(worker).await? else {
        return Ok(None);
    };
    if !is_recent(said.stored_at, server_time(client).await?) {
        return Ok(None);
    }
    let presence: Option<Presence> = said.protobuf().ok();
    Ok(presence.filter(|presence| !presence.worker.is_empty()))
}

/// Says for good that the worker of a machine shall never begin: for one that is not there yet to be asked. Whoever
/// starts on that machine reads it after it has begun to listen and before it takes anything, so that either the
/// question reaches it or this does.
pub async fn order_out(client: &Client, instance: &str) -> Result<(), JetStreamError> {
    let bucket = orders_out(client);
    let put = bucket.put(instance, &true, for_a(ORDER_TTL));
    put.await.map(drop)
}

/// Read at the leader: a replica may not have it yet.
pub async fn is_ordered_out(client: &Client, instance: &str) -> Result<bool, JetStreamError> {
    let found = orders_out(client).get(instance).await?;
    Ok(found.is_some())
}

/// A mark under `prefix`, which each kind of marks has of its own.
pub fn marks<T: Serialize + DeserializeOwned>(client: &Client, prefix: &'static str) -> Bucket<T> {
    Bucket::new(client, MARKS_BUCKET, prefix)
}

pub async fn put_mark(
    client: &Client,
    name: &str,
    value: &serde_json::Value,
) -> Result<(), JetStreamError> {
    let put = marks(client, "").put(name, value, Terms::default()).await;
    put.map(drop)
}

fn workers(client: &Client) -> Bucket<Presence, Protobuf> {
    Bucket::new(client, WORKERS_BUCKET, "")
}

fn orders_out(client: &Client) -> Bucket<bool> {
    Bucket::new(client, WORKERS_BUCKET, "out.")
}

fn for_a(time: Duration) -> Terms {
    Terms {
        ttl: Some(time),
        ..Terms::default()
    }
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
