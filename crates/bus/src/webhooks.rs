//! Endpoints of webhooks, their queues, and the log of their deliveries.
//!
//! The queue of an endpoint is a durable consumer of EVENTS: an event is queued for it in the moment in which it is stored, and
//! leaves the queue by an ack. Only notifier makes these consumers, one for each endpoint that an operator creates.

use std::time::Duration;

use async_nats::{Client, HeaderMap, SubscribeError, Subscriber};
use jiff::Timestamp;
use serde::Deserialize;
use spotreel_domain::Owner;
use spotreel_domain::webhook::{DeliveryRecord, Recovery, SigningSecrets, Webhook, WebhookId};

use crate::bucket::{self, Bucket, Terms};
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, JetStreamError, Start};
use crate::names::{
    DELIVERIES_BUCKET, EVENTS, WEBHOOK_CONSUMER, WEBHOOKS_BUCKET, bucket_key, recovery_consumer,
    subjects_of, webhook_consumer,
};

/// Each has a consumer, which costs the server memory, and connections of its own.
pub const MAX_WEBHOOKS: usize = 100;
/// Deliveries of one endpoint that wait for their next try or are at work. Above it the next ones stay in EVENTS.
const MAX_ACK_PENDING: i64 = 50_000;
/// How long the mark of a deleted endpoint stays.
const MARK_KEPT: Duration = Duration::from_secs(60);
/// Tries of a change while others change the same endpoint.
const CAS_TRIES: usize = 8;
/// The recipient of callbacks in the log of deliveries. No endpoint has this id: it is shorter.
pub const CALLBACKS: &str = "callbacks";
/// The owner of tasks that came over NATS; no owner is called so.
const NOBODY: &str = "-";

pub struct Webhooks {
    client: Client,
    endpoints: Bucket<Webhook>,
    callbacks: Bucket<SigningSecrets>,
    deliveries: Bucket<DeliveryRecord>,
}

/// A line of the delivery log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedDelivery {
    /// Of its event in EVENTS.
    pub sequence: u64,
    /// In the log: where the next page begins.
    pub revision: u64,
    pub record: DeliveryRecord,
}

/// How much of an endpoint's queue is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Backlog {
    /// Events that were not tried yet.
    #[serde(rename = "num_pending")]
    pub waiting: u64,
    /// Those at work, and those that wait for another try.
    #[serde(rename = "num_ack_pending")]
    pub open: u64,
}

impl Backlog {
    pub fn is_empty(self) -> bool {
        self.waiting == 0 && self.open == 0
    }
}

impl Webhooks {
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            endpoints: Bucket::new(client, WEBHOOKS_BUCKET, "endpoint."),
            callbacks: Bucket::new(client, WEBHOOKS_BUCKET, "callbacks."),
            deliveries: Bucket::new(client, DELIVERIES_BUCKET, ""),
        }
    }

    /// Stores an endpoint whose id nobody has; [`JetStreamError::Conflict`] otherwise.
    pub async fn create(&self, webhook: &Webhook) -> Result<(), JetStreamError> {
        let new = Terms {
            revision: Some(0),
            ..Terms::default()
        };
        let put = self.endpoints.put(webhook.id.as_str(), webhook, new);
        put.await.map(drop)
    }

    /// All endpoints, the oldest first. Any replica answers, so the newest may be missing.
    pub async fn list(&self) -> Result<Vec<Webhook>, JetStreamError> {
        let stored = bucket::read(&self.client, WEBHOOKS_BUCKET, &["endpoint.*"]).await?;
        let mut webhooks = Vec::new();
        for entry in stored {
            match entry.json::<Webhook>() {
                Ok(webhook) => webhooks.push(webhook),
                Err(error) => {
                    tracing::error!(error = %spotreel_domain::chain(&error), key = entry.key, "webhook record cannot be decoded");
                }
            }
        }
        webhooks.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(webhooks)
    }

    pub async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, JetStreamError> {
        let found = self.endpoints.get(id.as_str()).await?;
        found.map(|entry| entry.json()).transpose()
    }

    /// Stores what `change` makes of the endpoint, whoever else changes it; `change` gives nothing where nothing is to be
    /// stored. Returns the endpoint as it stands then; [`JetStreamError::NotFound`] where there is none.
    pub async fn update(
        &self,
        id: &WebhookId,
        change: impl Fn(&Webhook) -> Option<Webhook>,
    ) -> Result<Webhook, JetStreamError> {
        for _ in 0..CAS_TRIES {
            let entry = self.endpoints.get(id.as_str()).await?;
            let entry = entry.ok_or(JetStreamError::NotFound)?;
            let before: Webhook = entry.json()?;
            let Some(after) = change(&before) else {
                return Ok(before);
            };
            let terms = Terms {
                revision: Some(entry.revision),
                ..Terms::default()
            };
            match self.endpoints.put(id.as_str(), &after, terms).await {
                Ok(_) => return Ok(after),
                Err(JetStreamError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(JetStreamError::Conflict)
    }

    /// Forgets an endpoint; its queue goes with the next look of [`Self::stray_queues`].
    pub async fn delete(&self, id: &WebhookId) -> Result<(), JetStreamError> {
        self.get(id).await?.ok_or(JetStreamError::NotFound)?;
        let kept = Terms {
            ttl: Some(MARK_KEPT),
            ..Terms::default()
        };
        self.endpoints.delete(id.as_str(), kept).await
    }

    /// A message for every change of an endpoint.
    pub async fn watch(&self) -> Result<Subscriber, SubscribeError> {
        bucket::watch(&self.client, WEBHOOKS_BUCKET).await
    }

    /// The secrets of the callbacks of one owner's tasks; `new` becomes theirs if there are none.
    pub async fn callback_secrets(
        &self,
        owner: Option<&Owner>,
        new: SigningSecrets,
    ) -> Result<SigningSecrets, JetStreamError> {
        let key = owner.map_or(NOBODY, Owner::as_str);
        if let Some(entry) = self.callbacks.get(key).await? {
            return entry.json();
        }
        let first = Terms {
            revision: Some(0),
            ..Terms::default()
        };
        match self.callbacks.put(key, &new, first).await {
            Ok(_) => Ok(new),
            // Somebody was first.
            Err(JetStreamError::Conflict) => {
                let entry = self
                    .callbacks
                    .get(key)
                    .await?
                    .ok_or(JetStreamError::NotFound)?;
                entry.json()
            }
            Err(error) => Err(error),
        }
    }

    pub async fn put_callback_secrets(
        &self,
        owner: Option<&Owner>,
        secrets: &SigningSecrets,
    ) -> Result<(), JetStreamError> {
        let key = owner.map_or(NOBODY, Owner::as_str);
        let put = self.callbacks.put(key, secrets, Terms::default());
        put.await.map(drop)
    }

    /// Makes the endpoint's queue, with all events since the endpoint was created, unless it is there.
    pub async fn open_queue(
        &self,
        webhook: &Webhook,
        lease: Duration,
    ) -> Result<(), JetStreamError> {
        let name = webhook_consumer(&webhook.id);
        self.open(&name, webhook, webhook.created_at, lease).await
    }

    /// Makes the queue of what is to be sent again, unless it is there.
    pub async fn open_recovery(
        &self,
        webhook: &Webhook,
        recovery: &Recovery,
        lease: Duration,
    ) -> Result<(), JetStreamError> {
        let name = recovery_consumer(&webhook.id, recovery);
        self.open(&name, webhook, recovery.since, lease).await
    }

    async fn open(
        &self,
        name: &str,
        webhook: &Webhook,
        since: Timestamp,
        lease: Duration,
    ) -> Result<(), JetStreamError> {
        #[derive(Deserialize)]
        struct Made {}
        let nanos = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let mut config = serde_json::json!({
            "durable_name": name,
            "name": name,
            "description": "the queue of a webhook",
            "ack_policy": "explicit",
            "ack_wait": nanos,
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "deliver_policy": "by_start_time",
            "opt_start_time": since.to_string(),
        });
        let subjects = subjects_of(&webhook.events);
        if !subjects.is_empty() {
            config["filter_subjects"] = subjects.into();
        }
        let body = serde_json::json!({ "stream_name": EVENTS, "config": config });
        let api = format!("$JS.API.CONSUMER.CREATE.{EVENTS}.{name}");
        let (headers, body) = (HeaderMap::new(), body.to_string().into());
        let made = jetstream::request::<Made>(&self.client, &api, headers, body, REQUEST_TIMEOUT);
        made.await.map(drop)
    }

    pub async fn backlog(&self, consumer: &str) -> Result<Backlog, JetStreamError> {
        jetstream::consumer_info(&self.client, EVENTS, consumer).await
    }

    /// Deletes a queue; one that is gone is deleted, too.
    pub async fn close_queue(&self, consumer: &str) -> Result<(), JetStreamError> {
        #[derive(Deserialize)]
        struct Deleted {}
        let api = format!("$JS.API.CONSUMER.DELETE.{EVENTS}.{consumer}");
        let (headers, body) = (HeaderMap::new(), Default::default());
        let deleted =
            jetstream::request::<Deleted>(&self.client, &api, headers, body, REQUEST_TIMEOUT);
        match deleted.await {
            Ok(_) | Err(JetStreamError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Queues whose endpoint does not exist, and those of recoveries that are over. The queues are listed before the endpoints
    /// are read, each at the leader: one that is made meanwhile is none of them.
    pub async fn stray_queues(&self) -> Result<Vec<String>, JetStreamError> {
        let mut stray = Vec::new();
        for consumer in self.queues().await? {
            let Some(id) = consumer.strip_prefix(WEBHOOK_CONSUMER) else {
                continue;
            };
            let id = id.split('-').next().unwrap_or_default();
            let endpoint = match WebhookId::parse(id) {
                Ok(id) => self.get(&id).await?,
                Err(_) => None,
            };
            let is_used = endpoint.is_some_and(|endpoint| {
                let recovery = endpoint.recovery.as_ref();
                let recovery = recovery.map(|recovery| recovery_consumer(&endpoint.id, recovery));
                consumer == webhook_consumer(&endpoint.id) || recovery.as_ref() == Some(&consumer)
            });
            if !is_used {
                stray.push(consumer);
            }
        }
        Ok(stray)
    }

    async fn queues(&self) -> Result<Vec<String>, JetStreamError> {
        #[derive(Deserialize)]
        struct Names {
            #[serde(default)]
            total: usize,
            #[serde(default)]
            consumers: Option<Vec<String>>,
        }
        let api = format!("$JS.API.CONSUMER.NAMES.{EVENTS}");
        let mut all: Vec<String> = Vec::new();
        loop {
            let body = serde_json::json!({ "offset": all.len() }).to_string();
            let (headers, body) = (HeaderMap::new(), body.into());
            let page =
                jetstream::request::<Names>(&self.client, &api, headers, body, REQUEST_TIMEOUT)
                    .await?;
            let names = page.consumers.unwrap_or_default();
            let is_last = names.is_empty();
            all.extend(names);
            if is_last || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// What is known of an event's delivery to a recipient, which is an endpoint's id or [`CALLBACKS`].
    pub async fn delivery(
        &self,
        recipient: &str,
        sequence: u64,
    ) -> Result<Option<DeliveryRecord>, JetStreamError> {
        let found = self
            .deliveries
            .get(&format!("{recipient}.{sequence}"))
            .await?;
        // A record that another version wrote is like none: the delivery is tried again.
        Ok(found.and_then(|entry| entry.json().ok()))
    }

    pub async fn log_delivery(
        &self,
        recipient: &str,
        sequence: u64,
        record: &DeliveryRecord,
    ) -> Result<(), JetStreamError> {
        let key = format!("{recipient}.{sequence}");
        let put = self.deliveries.put(&key, record, Terms::default());
        put.await.map(drop)
    }

    /// A page of the log of a recipient, in the order in which deliveries were last tried.
    pub async fn deliveries(
        &self,
        recipient: &str,
        start: Start,
        limit: usize,
    ) -> Result<Vec<LoggedDelivery>, JetStreamError> {
        let (stream, filter) = (
            bucket::stream(DELIVERIES_BUCKET),
            bucket_key(DELIVERIES_BUCKET, &format!("{recipient}.*")),
        );
        let page = jetstream::page(&self.client, &stream, &filter, start, limit).await?;
        let read = page.into_iter().filter_map(|stored| {
            let key = bucket::key_of(DELIVERIES_BUCKET, &stored.subject)?;
            Some(LoggedDelivery {
                sequence: key.rsplit('.').next()?.parse().ok()?,
                revision: stored.sequence,
                record: serde_json::from_slice(&stored.payload).ok()?,
            })
        });
        Ok(read.collect())
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::webhook::EventFilter;

    use super::*;

    #[test]
    fn no_subject_of_an_endpoint_covers_another() {
        let subjects = |filters: &[&str]| {
            let filters = filters.iter().map(|filter| EventFilter::parse(filter));
            let filters: Result<Vec<_>, _> = filters.collect();
            subjects_of(&filters.expect("they are filters"))
        };
        assert!(subjects(&[]).is_empty() && subjects(&["task.succeeded", "*"]).is_empty());
        assert_eq!(subjects(&["task.succeeded"]), ["spotreel.task.*.succeeded"]);
        assert_eq!(
            subjects(&["task.succeeded", "task.*", "batch.settled", "batch.settled"]),
            [
                "spotreel.batch.*.settled",
                "spotreel.rejected.*",
                "spotreel.task.>"
            ]
        );
    }
}
