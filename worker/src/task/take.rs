//! Chooses the next work item: high priority first, the loaded model first, and no queue starves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use spotreel_bus::queue::QueueError;
use spotreel_bus::{Delivery, Queue};
use spotreel_domain::{Lane, Model};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Worker;
use crate::machine::presence::Board;
use crate::machine::wellness::Fitness;
use crate::packs::Keeper;

/// One in this number of looks starts with normal priority, so that a stream of high priority cannot hold back the rest for ever.
const LOW_END_FIRST: u64 = 8;
/// One in this number of looks starts with the model that was served longest ago, so that the loaded one cannot hold back
/// the others for ever. Not a multiple of the above, or of both only the low end would ever be seen.
const LEAST_SERVED_FIRST: u64 = 13;
/// At every fifth look the back lane of a priority comes before its front one, so that short queues of many owners cannot hold
/// back the long one of another for ever. No divisor of the others, for the same reason.
const BACK_FIRST: u64 = 5;
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
    board: Board,
    packs: Option<Keeper>,
    worker: Arc<Worker>,
    /// At which look a model was served last.
    served: BTreeMap<Model, u64>,
    /// Since when nothing came that this worker could render.
    idle_since: Option<Instant>,
}

impl Take {
    pub fn new(
        sources: Vec<Source>,
        idle_limit: Option<Duration>,
        board: Board,
        packs: Option<Keeper>,
        worker: Arc<Worker>,
    ) -> Self {
        Self {
            sources,
            looks: 0,
            idle_limit,
            board,
            packs,
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
            self.idle_since = match self.board.holds_any() {
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
        let packs = self.packs.as_ref();
        let may = |source: &&Source| packs.is_none_or(|packs| packs.may_come(source.model));
        let mut order: Vec<_> = self.sources.iter().filter(may).cloned().collect();
        let is_here = |model| packs.is_none_or(|packs| packs.is_here(model));
        let (looks, served) = (self.looks, &self.served);
        let what = |source: &Source| (source.lane, source.model);
        sort(&mut order, what, loaded, is_here, looks, served);
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
        let held = self.board.holds_any();
        let mut first = None;
        loop {
            tokio::select! {
                // The clock of an idle worker starts now.
                () = self.board.free(), if held && !enough.is_cancelled() => enough.cancel(),
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

/// Of one lane what is loaded, then what is on the disk, then the others.
fn sort<T>(
    sources: &mut [T],
    what: impl Fn(&T) -> (Lane, Model),
    loaded: Option<Model>,
    is_here: impl Fn(Model) -> bool,
    looks: u64,
    served: &BTreeMap<Model, u64>,
) {
    let back_first = looks.is_multiple_of(BACK_FIRST);
    let rank = |lane: Lane| (lane.priority, lane.back != back_first);
    sources.sort_by_cached_key(|source| {
        let (lane, model) = what(source);
        (rank(lane), Some(model) != loaded, !is_here(model))
    });
    if looks.is_multiple_of(LEAST_SERVED_FIRST) {
        sources.sort_by_key(|source| {
            let (lane, model) = what(source);
            (rank(lane), served.get(&model))
        });
    }
    if looks.is_multiple_of(LOW_END_FIRST) {
        sources.sort_by_key(|source| std::cmp::Reverse(what(source).0.priority));
    }
}

async fn hand_back(mut pulls: JoinSet<(Result<Option<Delivery>, QueueError>, Source)>) {
    while let Some(done) = pulls.join_next().await {
        if let Ok((Ok(Some(surplus)), _)) = done {
            let _ = surplus.nak(Duration::ZERO).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::Priority;

    use super::*;

    fn queues() -> Vec<(Lane, Model)> {
        let of = |lane| Model::ALL.map(|model| (lane, model));
        Lane::ALL.into_iter().flat_map(of).collect()
    }

    fn order(loaded: Option<Model>, here: &[Model], looks: u64) -> Vec<(Lane, Model)> {
        let mut order = queues();
        let is_here = |model| here.contains(&model);
        sort(
            &mut order,
            |queue| *queue,
            loaded,
            is_here,
            looks,
            &BTreeMap::new(),
        );
        order
    }

    #[test]
    fn what_is_loaded_comes_before_what_is_here_before_the_others() {
        let (loaded, here, away) = (Model::I2vA14b, Model::T2vA14b, Model::Ti2v5b);
        let found = order(Some(loaded), &[loaded, here], 1);
        let models = [loaded, here, away].repeat(Lane::ALL.len());
        assert_eq!(
            found.iter().map(|queue| queue.1).collect::<Vec<_>>(),
            models
        );
        let lanes: Vec<_> = found.iter().step_by(3).map(|queue| queue.0).collect();
        assert_eq!(lanes, Lane::ALL);
        let first = |looks| order(Some(loaded), &[], looks)[0].0;
        assert_eq!(first(LOW_END_FIRST), Lane::front(Priority::Normal));
        assert_eq!(first(BACK_FIRST), Lane::back(Priority::High));
        let both = LOW_END_FIRST * BACK_FIRST;
        assert_eq!(first(both), Lane::back(Priority::Normal));
    }

    /// Every queue always has work, and each task loads its model.
    #[test]
    fn nobody_starves() {
        /// Of a thousand looks, by lane: as much for each as is promised, shared by three models.
        const LEAST: [u32; 4] = [150, 30, 15, 1];
        let mut served = BTreeMap::new();
        let mut taken: BTreeMap<_, u32> = BTreeMap::new();
        let mut loaded = None;
        for looks in 1..=10_000 {
            let mut order = queues();
            let is_here = |model| model == Model::Ti2v5b;
            sort(&mut order, |queue| *queue, loaded, is_here, looks, &served);
            let (lane, model) = order[0];
            *taken.entry((lane, model)).or_default() += 1;
            served.insert(model, looks);
            loaded = Some(model);
        }
        assert_eq!(taken.len(), queues().len(), "{taken:?}");
        for ((lane, model), count) in taken {
            let at = Lane::ALL.iter().position(|each| *each == lane).unwrap();
            assert!(count >= 10 * LEAST[at], "{lane:?} {model}: {count}");
        }
    }
}
