//! Keeps a queue and its deliveries for each endpoint that is not disabled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use spotreel_bootstrap::Context;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::names::{recovery_consumer, webhook_consumer};
use spotreel_domain::webhook::{Gate, Recovery, Webhook, WebhookId};
use tokio::time::Instant;

use super::deliver::Deliverer;
use super::metrics;
use super::queue::EndpointQueue;

/// In `/readyz`.
pub const CHECK: &str = "webhooks";
/// A change wakes it; this is for those that were missed, and for the end of a recovery.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Queues of deleted endpoints cost a little memory.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// A consumer, its endpoint, and whether it is one of a recovery.
type WantedQueue = (String, (Arc<Webhook>, bool));

pub struct Endpoints {
    deliverer: Arc<Deliverer>,
    ctx: Context,
    /// By consumer.
    queues: HashMap<String, Arc<EndpointQueue>>,
    gates: HashMap<WebhookId, Arc<Mutex<Gate>>>,
    tidied: Option<Instant>,
}

impl Endpoints {
    pub fn new(deliverer: Arc<Deliverer>, ctx: Context) -> Self {
        Self {
            deliverer,
            ctx,
            queues: HashMap::new(),
            gates: HashMap::new(),
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
                tracing::warn!(error, "webhooks cannot be read; retrying");
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

    async fn look(&mut self) -> Result<(), JetStreamError> {
        let webhooks = self.deliverer.webhooks.list().await?;
        metrics::endpoints(&webhooks);
        let (mut wanted, mut failure) = (HashMap::new(), None);
        for webhook in webhooks.into_iter().map(Arc::new) {
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
        self.gates.retain(|id, _| ids.contains(id));
        self.tidy().await?;
        failure.map_or(Ok(()), Err)
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
        // A queue is made once a life of this program: the request is one of the server's dear ones.
        if !self.queues.contains_key(&consumer) {
            let lease = self.deliverer.lease();
            self.deliverer.webhooks.open_queue(webhook, lease).await?;
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

    /// False: everything was sent again, and the order is done.
    async fn recovers(
        &self,
        webhook: &Webhook,
        recovery: &Recovery,
    ) -> Result<bool, JetStreamError> {
        let webhooks = &self.deliverer.webhooks;
        let consumer = recovery_consumer(&webhook.id, recovery);
        if !self.queues.contains_key(&consumer) {
            let lease = self.deliverer.lease();
            webhooks.open_recovery(webhook, recovery, lease).await?;
        }
        if !webhooks.backlog(&consumer).await?.is_empty() {
            return Ok(true);
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
        let gate = self.gates.entry(webhook.id.clone()).or_default();
        let queue = Arc::new(EndpointQueue {
            deliverer: Arc::clone(&self.deliverer),
            consumer: consumer.clone(),
            webhook: Mutex::new(webhook),
            gate: Arc::clone(gate),
            is_recovery,
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
