//! API keys: the bucket `spotreel-keys` is the truth, and a [`KeyRing`] the copy of it that a program asks.
//!
//! The ring follows the bucket by a consumer of its own, so that it sees what was stored, in order, and nothing that
//! was refused. After a reconnect it is read anew, whole: while the server was away, anything may have happened.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use futures::StreamExt;
use jiff::Timestamp;
use spotreel_domain::api_key::{ApiKey, KeyId, Token};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bucket::{self, Bucket, Format, Json, Terms};
use crate::jetstream::JetStreamError;
use crate::names::{KEYS_BUCKET, bucket_key};

/// One read gives 1,024 of a bucket's subjects: half of it for keys, the rest for the marks of those just revoked.
pub const MAX_KEYS: usize = 500;

/// How long the mark of a revoked key stays. It tells the rings that watch; the others read the bucket anew.
const MARK_KEPT: Duration = Duration::from_secs(60);
/// Between looks at the connection, and between tries to read the bucket.
const LOOK: Duration = Duration::from_millis(250);
/// Time limit for reading all keys; then they are requested again.
const LOADED_WITHIN: Duration = Duration::from_secs(5);

/// Stores a key whose id nobody has; [`JetStreamError::Conflict`] otherwise.
pub async fn put(client: &Client, key: &ApiKey) -> Result<(), JetStreamError> {
    let new = Terms {
        revision: Some(0),
        ..Terms::default()
    };
    let put = bucket(client).put(key.id.as_str(), key, new).await;
    put.map(drop)
}

/// All keys, the oldest first. Any replica answers, so the newest may be missing.
pub async fn list(client: &Client) -> Result<Vec<ApiKey>, JetStreamError> {
    let stored = bucket::read(client, KEYS_BUCKET, &["*"]).await?;
    let mut keys: Vec<ApiKey> = stored
        .iter()
        .filter_map(|one| read(&one.key, one.json()))
        .map(|(_, key)| key)
        .collect();
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(keys)
}

/// Takes a key away for good; [`JetStreamError::NotFound`] where there is none.
pub async fn revoke(client: &Client, id: &KeyId) -> Result<(), JetStreamError> {
    let keys = bucket(client);
    keys.get(id.as_str())
        .await?
        .ok_or(JetStreamError::NotFound)?;
    let kept = Terms {
        ttl: Some(MARK_KEPT),
        ..Terms::default()
    };
    keys.delete(id.as_str(), kept).await
}

fn bucket(client: &Client) -> Bucket<ApiKey> {
    Bucket::new(client, KEYS_BUCKET, "")
}

/// A key that cannot be read opens nothing; a person has to look at it.
fn read(name: &str, key: Result<ApiKey, JetStreamError>) -> Option<(KeyId, ApiKey)> {
    let id = KeyId::parse(name).ok()?;
    match key {
        Ok(key) if key.id == id => return Some((id, key)),
        Ok(_) => tracing::error!(%id, "API key is stored under the id of another key; ignored"),
        Err(error) => tracing::error!(%error, %id, "API key record cannot be decoded"),
    }
    None
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    #[error("this is not a spotreel token")]
    Malformed,
    /// There is no such key, or its secret is another one. Means nothing while the ring is not ready.
    #[error("no key matches this token")]
    Unknown,
    #[error("the key has expired")]
    Expired,
}

/// Why the bucket cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Lost {
    #[error("the keys have not been read yet")]
    NotYet,
    #[error("the connection to NATS is lost")]
    Connection,
    #[error("the keys cannot be read ({0}): has `spotreel provision` run?")]
    Bucket(String),
    #[error("the keys did not arrive within {} s", LOADED_WITHIN.as_secs())]
    Slow,
}

/// All keys, in memory. Clones share them; one of them has to [`run`](Self::run).
///
/// While NATS is away it keeps what it knew and says that it is not ready: a revocation takes effect once it is back.
#[derive(Clone, Debug)]
pub struct KeyRing {
    client: Client,
    held: Arc<watch::Sender<HeldKeys>>,
}

#[derive(Debug)]
struct HeldKeys {
    keys: HashMap<KeyId, ApiKey>,
    /// Whether they are those of the bucket now.
    current: Result<(), Lost>,
}

impl KeyRing {
    /// Empty, and not ready.
    pub fn new(client: &Client) -> Self {
        let held = HeldKeys {
            keys: HashMap::new(),
            current: Err(Lost::NotYet),
        };
        Self {
            client: client.clone(),
            held: Arc::new(watch::Sender::new(held)),
        }
    }

    /// The key that this token opens.
    pub fn find(&self, token: &str, now: Timestamp) -> Result<ApiKey, KeyRefused> {
        let token = Token::parse(token).map_err(|_| KeyRefused::Malformed)?;
        let held = self.held.borrow();
        let key = held.keys.get(token.id());
        let key = key
            .filter(|key| key.is_opened_by(&token))
            .ok_or(KeyRefused::Unknown)?;
        match key.is_expired(now) {
            true => Err(KeyRefused::Expired),
            false => Ok(key.clone()),
        }
    }

    /// Whether a key that was found before still opens anything: it is there, is the same, and has not expired.
    pub fn is_live(&self, key: &ApiKey, now: Timestamp) -> bool {
        let held = self.held.borrow();
        held.keys.get(&key.id) == Some(key) && !key.is_expired(now)
    }

    pub fn is_ready(&self) -> bool {
        self.held.borrow().current.is_ok()
    }

    /// For a health check: what keeps it from being ready.
    pub fn health(&self) -> Result<(), String> {
        let held = self.held.borrow();
        held.current.clone().map_err(|lost| lost.to_string())
    }

    /// Returns once it is ready, at once if it is.
    pub async fn ready(&self) {
        let mut held = self.held.subscribe();
        // The sender lives as long as `self`.
        let _ = held.wait_for(|held| held.current.is_ok()).await;
    }

    /// Follows the bucket until told to stop; `say` is told of each change of [`health`](Self::health).
    pub async fn run(&self, stopping: &CancellationToken, say: impl Fn(Result<(), String>)) {
        loop {
            let Some(Err(lost)) = stopping.run_until_cancelled(self.follow(&say)).await else {
                return;
            };
            if self.lose(lost) {
                say(self.health());
            }
            let pause = tokio::time::sleep(LOOK);
            if stopping.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn follow(&self, say: &impl Fn(Result<(), String>)) -> Result<Infallible, Lost> {
        if self.client.connection_state() != State::Connected {
            return Err(Lost::Connection);
        }
        let connects = self.connects();
        let (mut messages, pending) = self.watch().await?;
        let mut loaded = pending == 0;
        let mut fresh = HashMap::new();
        if loaded {
            self.hold(std::mem::take(&mut fresh));
            say(Ok(()));
        }
        let slow = tokio::time::sleep(LOADED_WITHIN);
        tokio::pin!(slow);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(error)) => return Err(Lost::Bucket(error.to_string())),
                        None => return Err(Lost::Connection),
                    };
                    if loaded {
                        self.held.send_modify(|held| apply(&mut held.keys, &message));
                        continue;
                    }
                    apply(&mut fresh, &message);
                    if message.info().is_ok_and(|info| info.pending == 0) {
                        loaded = true;
                        self.hold(std::mem::take(&mut fresh));
                        say(Ok(()));
                    }
                }
                _ = look.tick() => {
                    let connected = self.client.connection_state() == State::Connected;
                    if !connected || connects != self.connects() {
                        return Err(Lost::Connection);
                    }
                }
                () = &mut slow, if !loaded => return Err(Lost::Slow),
            }
        }
    }

    /// The newest message of each key, then whatever comes; and how many of the former there are.
    async fn watch(&self) -> Result<(Ordered, u64), Lost> {
        let context = async_nats::jetstream::new(self.client.clone());
        let stream = context
            .get_stream_no_info(bucket::stream(KEYS_BUCKET))
            .await
            .expect("it is a valid stream name");
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            description: Some("a ring of keys".into()),
            filter_subject: bucket_key(KEYS_BUCKET, "*"),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| Lost::Bucket(error.to_string()))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await;
        let messages = messages.map_err(|error| Lost::Bucket(error.to_string()))?;
        Ok((messages, pending))
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn hold(&self, keys: HashMap<KeyId, ApiKey>) {
        tracing::debug!(keys = keys.len(), "API keys loaded");
        let current = Ok(());
        self.held.send_replace(HeldKeys { keys, current });
    }

    /// Whether that is news.
    fn lose(&self, lost: Lost) -> bool {
        self.held.send_if_modified(|held| {
            let news = held.current.as_ref().err() != Some(&lost);
            if news {
                tracing::warn!(%lost, "key cache is stale; serving the last known keys");
                held.current = Err(lost);
            }
            news
        })
    }
}

fn apply(keys: &mut HashMap<KeyId, ApiKey>, message: &Message) {
    let Some(name) = bucket::key_of(KEYS_BUCKET, &message.subject) else {
        return;
    };
    let key = match bucket::is_deletion(message.headers.as_ref()) {
        true => None,
        false => read(name, Json::read(&message.payload)),
    };
    match (key, KeyId::parse(name)) {
        (Some((id, key)), _) => drop(keys.insert(id, key)),
        (None, Ok(id)) => drop(keys.remove(&id)),
        (None, Err(_)) => {}
    }
}
