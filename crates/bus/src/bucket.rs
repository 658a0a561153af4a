//! A key-value bucket: a stream that keeps one message for each key. Only this crate names its stream and subjects.

use std::marker::PhantomData;
use std::time::Duration;

use async_nats::{Client, HeaderMap, SubscribeError, Subscriber};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, JetStreamError, PubAck};
use crate::names::{HEADER_EXPECTED, bucket_key};

/// On the message that a deleted key leaves, whose payload is empty.
const OPERATION: &str = "KV-Operation";

/// Keys of one kind in a bucket, with values of type `T`. A bucket may hold several kinds, told apart by a prefix of their
/// keys.
#[derive(Clone)]
pub struct Bucket<T, F = Json> {
    client: Client,
    name: &'static str,
    prefix: &'static str,
    values: PhantomData<fn() -> (T, F)>,
}

/// How a value is written.
pub trait Format<T> {
    fn write(value: &T) -> Result<Vec<u8>, JetStreamError>;
    fn read(payload: &[u8]) -> Result<T, JetStreamError>;
}

pub struct Json;

impl<T: Serialize + DeserializeOwned> Format<T> for Json {
    fn write(value: &T) -> Result<Vec<u8>, JetStreamError> {
        Ok(serde_json::to_vec(value)?)
    }

    fn read(payload: &[u8]) -> Result<T, JetStreamError> {
        Ok(serde_json::from_slice(payload)?)
    }
}

pub struct Protobuf;

impl<T: prost::Message + Default> Format<T> for Protobuf {
    fn write(value: &T) -> Result<Vec<u8>, JetStreamError> {
        Ok(value.encode_to_vec())
    }

    fn read(payload: &[u8]) -> Result<T, JetStreamError> {
        Ok(T::decode(payload)?)
    }
}

/// What a write asks for besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The revision that the key must have, 0 for none; another one is [`JetStreamError::Conflict`].
    pub revision: Option<u64>,
    /// After this time the server forgets the key.
    pub ttl: Option<Duration>,
}

/// A key and its value, not read yet.
#[derive(Clone, Debug)]
pub struct BucketEntry {
    pub key: String,
    pub revision: u64,
    pub stored_at: Timestamp,
    payload: Bytes,
}

impl BucketEntry {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, JetStreamError> {
        Ok(serde_json::from_slice(&self.payload)?)
    }

    pub fn protobuf<T: prost::Message + Default>(&self) -> Result<T, JetStreamError> {
        Protobuf::read(&self.payload)
    }
}

impl<T, F: Format<T>> Bucket<T, F> {
    pub fn new(client: &Client, name: &'static str, prefix: &'static str) -> Self {
        Self {
            client: client.clone(),
            name,
            prefix,
            values: PhantomData,
        }
    }

    /// Stores the value and returns its revision.
    pub async fn put(&self, key: &str, value: &T, terms: Terms) -> Result<u64, JetStreamError> {
        let payload = F::write(value)?;
        self.store(key, HeaderMap::new(), payload.into(), terms)
            .await
    }

    /// Leaves a message that says so, for watchers; `terms.ttl` is how long it stays.
    pub async fn delete(&self, key: &str, terms: Terms) -> Result<(), JetStreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        let stored = self.store(key, headers, Bytes::new(), terms);
        stored.await.map(drop)
    }

    /// Stores the value if the key has none. False: it has one, or got one meanwhile.
    pub async fn put_if_none(&self, key: &str, value: &T) -> Result<bool, JetStreamError> {
        let last = self.last(key).await?;
        if last.as_ref().is_some_and(|last| !last.payload.is_empty()) {
            return Ok(false);
        }
        // A deleted key has the revision of its deletion.
        let terms = Terms {
            revision: Some(last.map_or(0, |last| last.revision)),
            ..Terms::default()
        };
        match self.put(key, value, terms).await {
            Ok(_) => Ok(true),
            Err(JetStreamError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The key's entry, read at the leader: a replica may not have it yet.
    pub async fn get(&self, key: &str) -> Result<Option<BucketEntry>, JetStreamError> {
        let last = self.last(key).await?;
        Ok(last.filter(|entry| !entry.payload.is_empty()))
    }

    /// The same, also of a deletion, whose payload is empty.
    async fn last(&self, key: &str) -> Result<Option<BucketEntry>, JetStreamError> {
        #[derive(Deserialize)]
        struct Found {
            message: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            seq: u64,
            time: Timestamp,
            #[serde(default)]
            data: String,
        }
        let api = format!("$JS.API.STREAM.MSG.GET.{}", stream(self.name));
        let query = serde_json::json!({ "last_by_subj": self.subject(key) });
        let (headers, body) = (HeaderMap::new(), query.to_string().into());
        let found =
            jetstream::request::<Found>(&self.client, &api, headers, body, REQUEST_TIMEOUT).await;
        let found = match found {
            Ok(found) => found.message,
            Err(JetStreamError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let payload = BASE64.decode(found.data).unwrap_or_default();
        let entry = BucketEntry {
            key: key.to_owned(),
            revision: found.seq,
            stored_at: found.time,
            payload: payload.into(),
        };
        Ok(Some(entry))
    }

    async fn store(
        &self,
        key: &str,
        mut headers: HeaderMap,
        payload: Bytes,
        terms: Terms,
    ) -> Result<u64, JetStreamError> {
        if let Some(revision) = terms.revision {
            headers.insert(HEADER_EXPECTED, revision.to_string().as_str());
        }
        if let Some(ttl) = terms.ttl {
            headers.insert("Nats-TTL", format!("{}s", ttl.as_secs()).as_str());
        }
        let subject = self.subject(key);
        let stored =
            jetstream::request::<PubAck>(&self.client, &subject, headers, payload, REQUEST_TIMEOUT);
        stored.await.map(|ack| ack.seq)
    }

    fn subject(&self, key: &str) -> String {
        bucket_key(self.name, &format!("{}{key}", self.prefix))
    }
}

/// The entries whose keys match one of `patterns`, in one round trip. Any replica answers, so the newest may be missing.
///
/// The server refuses (413) above 1,024 of them.
pub async fn read(
    client: &Client,
    bucket: &'static str,
    patterns: &[&str],
) -> Result<Vec<BucketEntry>, JetStreamError> {
    let filters: Vec<_> = patterns
        .iter()
        .map(|keys| bucket_key(bucket, keys))
        .collect();
    let query = serde_json::json!({ "multi_last": filters });
    let stored = jetstream::direct_get(client, &stream(bucket), &query).await?;
    let live = stored
        .into_iter()
        .filter(|one| one.headers.get(OPERATION).is_none());
    let entries = live.filter_map(|one| {
        Some(BucketEntry {
            key: key_of(bucket, &one.subject)?.to_owned(),
            revision: one.sequence,
            stored_at: one.stored_at,
            payload: one.payload,
        })
    });
    Ok(entries.collect())
}

/// A message for every change of every key. It only wakes: what is in force now, a read tells.
pub async fn watch(client: &Client, bucket: &'static str) -> Result<Subscriber, SubscribeError> {
    client.subscribe(bucket_key(bucket, ">")).await
}

/// The key of which a message of the bucket tells.
pub fn key_of<'a>(bucket: &str, subject: &'a str) -> Option<&'a str> {
    let rest = subject.strip_prefix("$KV.")?.strip_prefix(bucket)?;
    rest.strip_prefix('.')
}

/// Whether a message of the bucket tells of a deletion.
pub(crate) fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(OPERATION).is_some())
}

pub(crate) fn stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}
