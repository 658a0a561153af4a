//! Pulls the next work item; `order.rs` says which queue is asked first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::Context;
use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Queue, names};
use spotreel_domain::{Lane, Model};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Worker;
use crate::machine::wellness::Fitness;
use crate::task::order;

/// How often a worker looks again for consumers that are not provisioned yet.
const PROVISION_RETRY: Duration = Duration::from_secs(1);
/// Between two looks while this worker could render nothing.
const UNWELL: Duration = Duration::from_secs(1);
/// Between two looks while the server does not answer.
const SERVER_AWAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Source {
    pub model: Model,
    pub lane: Lane,
    pub queue: Queue,
}

pub struct Taken {
    pub delivery: Delivery,
    pub ack_wait: Duration,
    /// Dropped, it ends the pulls at the other queues. The server is asked once for each, so the task is begun first.
    pub others: Option<DropGuard>,
}

pub enum Next {
    Taken(Box<Taken>),
    /// There was nothing to take for the whole of the limit, fleet was silent as long, and nothing is in hand.
    Idle,
    /// The worker leaves.
    Leaving,
    /// This worker can render nothing, for this reason, and it has lasted too long.
    Unfit(&'static str),
}

pub struct Take {
    sources: Vec<Source>,
    looks: u64,
    idle_limit: Option<Duration>,
    worker: Arc<Worker>,
    /// At which look a model was served last.
    served: BTreeMap<Model, u64>,
    /// Since when nothing came that this worker could render.
    idle_since: Option<Instant>,
}

/// The consumers are made by `spotreel provision`; until they are there, the worker is not ready and says why.
pub async fn open_queues(worker: &Worker, ctx: &Context) -> Vec<Source> {
    let leaving = worker.leave.leaving();
    let mut sources = Vec::new();
    for model in worker.config.models.iter().copied() {
        for lane in Lane::ALL {
            let consumer = names::work_consumer(model, lane);
            while !leaving.is_cancelled() {
                match Queue::open(worker.log.client(), names::TASKS, &consumer).await {
                    Ok(queue) => {
                        sources.push(Source { model, lane, queue });
                        break;
                    }
                    Err(error) => ctx.health.set("queues", Err(error)),
                }
                tokio::select! {
                    () = tokio::time::sleep(PROVISION_RETRY) => {}
                    () = leaving.cancelled() => {}
                }
            }
        }
    }
    if !leaving.is_cancelled() {
        ctx.health.set::<&str>("queues", Ok(()));
    }
    sources
}

impl Take {
    pub fn new(sources: Vec<Source>, idle_limit: Option<Duration>, worker: Arc<Worker>) -> Self {
        Self {
            sources,
            looks: 0,
            idle_limit,
            worker,
            served: BTreeMap::new(),
            idle_since: None,
        }
    }

    /// What was taken is work.
    pub fn restart_idle_clock(&mut self) {
        self.idle_since = None;
    }

    /// This worker cannot render a model any more.
    pub fn forget(&mut self, model: Model) {
        self.sources.retain(|source| source.model != model);
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    pub async fn next(
        &mut self,
        loaded: Option<Model>,
        wait: Duration,
        leaving: &CancellationToken,
    ) -> Next {
        while !leaving.is_cancelled() {
            self.looks += 1;
            self.worker.uptime.look();
            let fitness = self.worker.wellness.look().await;
            if let Fitness::GiveUp(reason) = fitness {
                return Next::Unfit(reason);
            }
            let order = match fitness {
                Fitness::Well => self.order(loaded),
                _ => Vec::new(),
            };
            let mut away = false;
            for source in &order {
                match source.queue.pull(Duration::ZERO).await {
                    Ok(Some(delivery)) => {
                        return self.taken(delivery, source, None, leaving).await;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, consumer = source.queue.name(), "pulling a work item failed");
                        away = true;
                        break;
                    }
                }
            }
            if away {
                tokio::select! {
                    () = tokio::time::sleep(SERVER_AWAY) => {}
                    () = leaving.cancelled() => {}
                }
                continue;
            }
            // Only a look that found nothing starts the clock.
            self.idle_since = match self.worker.presence.holds_any() {
                true => None,
                false => self.idle_since.or_else(|| Some(Instant::now())),
            };
            let rest = match (self.idle_limit, self.idle_since) {
                (Some(limit), Some(since)) => {
                    let since = self.worker.stay.told_at().map_or(since, |at| at.max(since));
                    limit.saturating_sub(since.elapsed())
                }
                _ => wait,
            };
            if rest.is_zero() {
                return Next::Idle;
            }
            let wait = match fitness {
                Fitness::Well => wait.min(rest),
                _ => UNWELL.min(rest),
            };
            let found = self.wait_for_any(order, wait, leaving).await;
            if let Some((delivery, source, others)) = found {
                return self.taken(delivery, &source, others, leaving).await;
            }
        }
        Next::Leaving
    }

    /// What came although the worker leaves belongs to others, at once.
    async fn taken(
        &mut self,
        delivery: Delivery,
        source: &Source,
        others: Option<DropGuard>,
        leaving: &CancellationToken,
    ) -> Next {
        if leaving.is_cancelled() {
            let _ = delivery.nak(Duration::ZERO).await;
            return Next::Leaving;
        }
        self.served.insert(source.model, self.looks);
        Next::Taken(Box::new(Taken {
            delivery,
            ack_wait: source.queue.ack_wait(),
            others,
        }))
    }

    /// Nothing whose pack does not come.
    fn order(&self, loaded: Option<Model>) -> Vec<Source> {
        let packs = self.worker.packs.as_ref();
        let may = |source: &&Source| packs.is_none_or(|packs| packs.may_come(source.model));
        let mut order: Vec<_> = self.sources.iter().filter(may).cloned().collect();
        let is_here = |model| packs.is_none_or(|packs| packs.is_here(model));
        let (looks, served) = (self.looks, &self.served);
        let what = |source: &Source| (source.lane, source.model);
        order::sort(&mut order, what, loaded, is_here, looks, served);
        order
    }

    /// Waits on all queues at once. The first item is taken and the other pulls are ended; what else came by then is
    /// handed back at once, since a pull that is dropped would keep its item from everybody for a whole lease.
    async fn wait_for_any(
        &self,
        sources: Vec<Source>,
        wait: Duration,
        leaving: &CancellationToken,
    ) -> Option<(Delivery, Source, Option<DropGuard>)> {
        let enough = leaving.child_token();
        let mut pulls = JoinSet::new();
        if sources.is_empty() {
            // Until a pack comes, or the worker is well again; nothing could be rendered.
            let _ = tokio::time::timeout(wait, leaving.cancelled()).await;
        }
        for source in sources {
            let enough = enough.clone();
            pulls.spawn(async move { (source.queue.pull_until(wait, &enough).await, source) });
        }
        let held = self.worker.presence.holds_any();
        let mut first = None;
        loop {
            tokio::select! {
                // The clock of an idle worker starts now.
                () = self.worker.presence.free(), if held && !enough.is_cancelled() => enough.cancel(),
                done = pulls.join_next() => match done {
                    None => return first,
                    Some(Ok((Ok(Some(delivery)), source))) => {
                        if first.is_some() {
                            let _ = delivery.nak(Duration::ZERO).await;
                        } else if leaving.is_cancelled() {
                            first = Some((delivery, source, None));
                        } else {
                            // A worker that stays need not wait for them before it begins.
                            tokio::spawn(hand_back(pulls));
                            return Some((delivery, source, Some(enough.drop_guard())));
                        }
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

async fn hand_back(mut pulls: JoinSet<(Result<Option<Delivery>, QueueError>, Source)>) {
    while let Some(done) = pulls.join_next().await {
        if let Ok((Ok(Some(surplus)), _)) = done {
            let _ = surplus.nak(Duration::ZERO).await;
        }
    }
}
