//! Keeps a queue and its deliveries for each endpoint that is not disabled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use spotreel_bootstrap::Context;
use spotreel_bus::Queue;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::names::{CONSUMER_CALLBACKS, EVENTS, recovery_consumer, webhook_consumer};
use spotreel_bus::webhooks::{Backlog, CALLBACKS};
use spotreel_domain::webhook::{Recovery, Webhook, WebhookId};
use tokio::time::Instant;

use super::deliver::Deliverer;
use super::queue::{EndpointQueue, Shared};
use super::{health, metrics};

/// In `/readyz`.
pub const CHECK: &str = "webhooks";
/// A change wakes it; this is for those that were missed, and for the end of a recovery.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Queues of deleted endpoints cost a little memory.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Why the endpoints are not all served.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Api(#[from] JetStreamError),
    #[error("{0}")]
    Queue(String),
}

/// A consumer, its endpoint, and whether it is one of a recovery.
type WantedQueue = (String, (Arc<Webhook>, bool));

pub struct Endpoints {
    deliverer: Arc<Deliverer>,
    ctx: Context,
    /// By consumer.
    queues: HashMap<String, Arc<EndpointQueue>>,
    shared: HashMap<WebhookId, Arc<Shared>>,
    /// Whose backlog was measured by the last look.
    measured: HashSet<WebhookId>,
    tidied: Option<Instant>,
}

impl Endpoints {
    pub fn new(deliverer: Arc<Deliverer>, ctx: Context) -> Self {
        Self {
            deliverer,
            ctx,
            queues: HashMap::new(),
            shared: HashMap::new(),
            measured: HashSet::new(),
            tidied: None,
        }
    }

    /// Looks at the endpoints until told to stop.
    pub async fn keep(mut self) {
        let stopping = self.ctx.stopping.clone();
        let mut changes = None;
        while !stopping.is_cancelled() {
            if changes.is_none() {
                changes = self.deliverer.webhooks.watch().await.ok();
            }
            let state = self.look().await.map_err(|error| {
                let error = spotreel_domain::chain(&error);
                tracing::warn!(error, "webhooks are not all served; retrying");
                error
            });
            self.ctx.health.set(CHECK, state);
            let change = async {
                match &mut changes {
                    Some(changes) => changes.next().await.is_some(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                heard = change => if !heard { changes = None },
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), LookError> {
        let webhooks = self.deliverer.webhooks.list().await?;
        metrics::endpoints(&webhooks);
        let (mut wanted, mut failure) = (HashMap::new(), None);
        self.measure(&webhooks).await;
        for webhook in webhooks.into_iter().map(Arc::new) {
            if let Err(error) = health::tell(&self.deliverer, &webhook).await {
                failure = Some(error);
            }
            if webhook.disabled.is_some() {
                continue;
            }
            // What fails for one endpoint holds up no other.
            match self.queues_of(&webhook).await {
                Ok(queues) => wanted.extend(queues),
                Err(error) => {
                    failure = Some(error);
                    wanted.extend(self.running(&webhook));
                }
            }
        }
        self.queues.retain(|consumer, queue| {
            let stays = wanted.contains_key(consumer) && !queue.stopping.is_cancelled();
            if !stays {
                queue.stopping.cancel();
            }
            stays
        });
        for (consumer, (webhook, is_recovery)) in wanted {
            self.keep_queue(consumer, webhook, is_recovery);
        }
        let ids: Vec<_> = self
            .queues
            .values()
            .map(|queue| queue.webhook.lock().id.clone())
            .collect();
        self.shared.retain(|id, _| ids.contains(id));
        self.tidy().await?;
        let mut queues = self.queues.values();
        let broken = queues.find_map(|queue| queue.failure.lock().clone());
        match (failure, broken) {
            (Some(error), _) => Err(error.into()),
            (None, Some(reason)) => Err(LookError::Queue(reason)),
            (None, None) => Ok(()),
        }
    }

    /// Also of endpoints that are disabled: their events wait. What cannot be read now keeps its last value.
    async fn measure(&mut self, webhooks: &[Webhook]) {
        let own = webhooks
            .iter()
            .map(|webhook| (webhook.id.as_str(), webhook_consumer(&webhook.id)));
        let all: Vec<_> = [(CALLBACKS, CONSUMER_CALLBACKS.to_owned())]
            .into_iter()
            .chain(own)
            .collect();
        for (name, consumer) in all {
            match self.deliverer.webhooks.backlog(&consumer).await {
                Ok(backlog) => metrics::backlog(name, backlog),
                // Each would take the whole time of a request.
                Err(error) if error.is_transient() => return,
                Err(_) => {}
            }
        }
        let measured = webhooks.iter().map(|webhook| webhook.id.clone()).collect();
        for deleted in self.measured.difference(&measured) {
            metrics::backlog(deleted.as_str(), Backlog::default());
        }
        self.measured = measured;
    }

    /// Those of the endpoint's queues that are served already.
    fn running(&self, webhook: &Arc<Webhook>) -> Vec<WantedQueue> {
        let queues = self.queues.iter();
        let queues = queues.filter(|(_, queue)| queue.webhook.lock().id == webhook.id);
        queues
            .map(|(consumer, queue)| (consumer.clone(), (Arc::clone(webhook), queue.is_recovery)))
            .collect()
    }

    /// The queues that the endpoint has now, by consumer.
    async fn queues_of(&self, webhook: &Arc<Webhook>) -> Result<Vec<WantedQueue>, JetStreamError> {
        let consumer = webhook_consumer(&webhook.id);
        let webhooks = &self.deliverer.webhooks;
        let open = webhooks.open_queue(webhook, self.deliverer.lease());
        let is_wanted = |stored: &Webhook| stored.disabled.is_none();
        let backlog = self.backlog(webhook, &consumer, open, is_wanted).await?;
        if backlog.is_none() {
            return Ok(Vec::new());
        }
        let mut queues = vec![(consumer, (Arc::clone(webhook), false))];
        if let Some(recovery) = &webhook.recovery
            && self.recovers(webhook, recovery).await?
        {
            let consumer = recovery_consumer(&webhook.id, recovery);
            queues.push((consumer, (Arc::clone(webhook), true)));
        }
        Ok(queues)
    }

    /// The backlog of a queue. One that is not there is made: nobody has made it yet, or somebody deleted it on the server. One
    /// that this program does not serve yet is opened: an earlier life may have had other deadlines. `None`: the endpoint has
    /// changed since it was listed, and does not want it any more.
    async fn backlog(
        &self,
        webhook: &Webhook,
        consumer: &str,
        open: impl Future<Output = Result<(), JetStreamError>>,
        is_wanted: impl Fn(&Webhook) -> bool,
    ) -> Result<Option<Backlog>, JetStreamError> {
        let webhooks = &self.deliverer.webhooks;
        let is_served = self.queues.contains_key(consumer);
        if is_served {
            match webhooks.backlog(consumer).await {
                Err(JetStreamError::NotFound) => {}
                known => return known.map(Some),
            }
        }
        // The listing may come from a replica that is behind, and a deleted endpoint must get no queue.
        if !webhooks
            .get(&webhook.id)
            .await?
            .as_ref()
            .is_some_and(is_wanted)
        {
            return Ok(None);
        }
        open.await?;
        if is_served {
            tracing::error!(
                consumer,
                "queue of a webhook was deleted on the NATS server; it was made again, and events without a line in the log of deliveries are sent again"
            );
        }
        webhooks.backlog(consumer).await.map(Some)
    }

    /// False: everything was sent again, and the order is done.
    async fn recovers(
        &self,
        webhook: &Webhook,
        recovery: &Recovery,
    ) -> Result<bool, JetStreamError> {
        let webhooks = &self.deliverer.webhooks;
        let consumer = recovery_consumer(&webhook.id, recovery);
        let open = webhooks.open_recovery(webhook, recovery, self.deliverer.lease());
        let is_wanted = |stored: &Webhook| stored.recovery.as_ref() == Some(recovery);
        let backlog = self.backlog(webhook, &consumer, open, is_wanted).await?;
        let Some(backlog) = backlog else {
            return Ok(false);
        };
        if !backlog.is_empty() {
            // Events of others may come all the time: those up to the order count.
            let acked = Queue::ack_floor(&self.deliverer.nats, EVENTS, &consumer).await?;
            if recovery.until.is_none_or(|until| acked < until) {
                return Ok(true);
            }
        }
        let done = |stored: &Webhook| {
            (stored.recovery.as_ref() == Some(recovery)).then(|| Webhook {
                recovery: None,
                ..stored.clone()
            })
        };
        webhooks.update(&webhook.id, done).await?;
        webhooks.close_queue(&consumer).await?;
        let since = recovery.since;
        tracing::info!(id = %webhook.id, %since, "webhook recovered: every event since then has been tried again");
        Ok(false)
    }

    fn keep_queue(&mut self, consumer: String, webhook: Arc<Webhook>, is_recovery: bool) {
        if let Some(queue) = self.queues.get(&consumer) {
            *queue.webhook.lock() = webhook;
            return;
        }
        let shared = self.shared.entry(webhook.id.clone()).or_default();
        let queue = Arc::new(EndpointQueue {
            deliverer: Arc::clone(&self.deliverer),
            consumer: consumer.clone(),
            webhook: Mutex::new(webhook),
            shared: Arc::clone(shared),
            is_recovery,
            failure: Mutex::new(None),
            stopping: self.ctx.stopping.child_token(),
        });
        self.ctx.tasks.spawn(Arc::clone(&queue).run());
        self.queues.insert(consumer, queue);
    }

    async fn tidy(&mut self) -> Result<(), JetStreamError> {
        if self
            .tidied
            .is_some_and(|tidied| tidied.elapsed() < TIDY_EVERY)
        {
            return Ok(());
        }
        for consumer in self.deliverer.webhooks.stray_queues().await? {
            self.deliverer.webhooks.close_queue(&consumer).await?;
            tracing::info!(consumer, "queue of a deleted webhook removed");
        }
        self.tidied = Some(Instant::now());
        Ok(())
    }
}
