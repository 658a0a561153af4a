//! Choosing the next work item: high before normal, the model that is loaded before others, and nobody starves.

use std::time::Duration;

use spotreel_bus::{Delivery, Queue};
use spotreel_domain::{Model, Priority};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Every so many looks begin at the low end, so that a stream of high priority cannot hold back the rest for ever.
const LOW_END_FIRST: u64 = 8;
/// Between two looks while the server does not answer.
const SERVER_AWAY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Source {
    pub model: Model,
    pub priority: Priority,
    pub queue: Queue,
}

pub struct Taken {
    pub delivery: Delivery,
    pub ack_wait: Duration,
}

pub struct Take {
    sources: Vec<Source>,
    looks: u64,
}

impl Take {
    pub fn new(sources: Vec<Source>) -> Self {
        Self { sources, looks: 0 }
    }

    /// This worker cannot render a model any more.
    pub fn forget(&mut self, model: Model) {
        self.sources.retain(|source| source.model != model);
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The next work item, or none once `stopping`.
    pub async fn next(
        &mut self,
        loaded: Option<Model>,
        wait: Duration,
        stopping: &CancellationToken,
    ) -> Option<Taken> {
        while !stopping.is_cancelled() {
            self.looks += 1;
            let order = self.order(loaded);
            let mut away = false;
            for source in &order {
                match source.queue.pull(Duration::ZERO).await {
                    Ok(Some(delivery)) => {
                        return Some(Taken {
                            delivery,
                            ack_wait: source.queue.ack_wait(),
                        });
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, consumer = source.queue.name(), "cannot look for work");
                        away = true;
                        break;
                    }
                }
            }
            if away {
                tokio::select! {
                    () = tokio::time::sleep(SERVER_AWAY) => {}
                    () = stopping.cancelled() => {}
                }
            } else if let Some(taken) = self.wait_for_any(wait, stopping).await {
                return Some(taken);
            }
        }
        None
    }

    fn order(&self, loaded: Option<Model>) -> Vec<Source> {
        let mut order = self.sources.clone();
        order.sort_by_key(|source| (source.priority, Some(source.model) != loaded));
        if self.looks.is_multiple_of(LOW_END_FIRST) {
            order.sort_by_key(|source| std::cmp::Reverse(source.priority));
        }
        order
    }

    /// Waits on all queues at once. The first item is taken; what else comes is handed back at once, since a pull that
    /// is dropped would keep its item from everybody for a whole lease.
    async fn wait_for_any(&self, wait: Duration, stopping: &CancellationToken) -> Option<Taken> {
        let mut pulls = JoinSet::new();
        for source in self.sources.clone() {
            pulls.spawn(async move { (source.queue.pull(wait).await, source.queue.ack_wait()) });
        }
        let taken = loop {
            tokio::select! {
                () = stopping.cancelled() => break None,
                done = pulls.join_next() => match done {
                    None => break None,
                    Some(Ok((Ok(Some(delivery)), ack_wait))) => break Some(Taken { delivery, ack_wait }),
                    Some(_) => {}
                }
            }
        };
        tokio::spawn(async move {
            while let Some(done) = pulls.join_next().await {
                if let Ok((Ok(Some(surplus)), _)) = done {
                    let _ = surplus.nak(Duration::ZERO).await;
                }
            }
        });
        taken
    }
}
