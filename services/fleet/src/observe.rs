//! What a reconcile pass reads. `spotreel_pool` defines each fact; a fact that cannot be read is unknown, never zero.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::RecordedBatch;
use spotreel_bus::batches;
use spotreel_bus::log::ReadError;
use spotreel_domain::batch::{Batch, Instance, InstanceState, PoolName};
use spotreel_domain::fleet::cloud::{SeenInstance, tag};
use spotreel_domain::fleet::observation::{WorkerSeen, WorkerState};
use spotreel_domain::fleet::{Observation, Policy};
use spotreel_domain::model::Model;
use spotreel_domain::pool::{PoolConfig, Pools};
use spotreel_domain::spend::Spend;
use spotreel_domain::workload::Demand;
use spotreel_pool::marks::Marks;
use spotreel_pool::queue::{self, Queues};
use spotreel_pool::samples::{Looked, Samples};
use spotreel_pool::spend::{self, Ledger};
use spotreel_pool::workers;
use spotreel_proto::worker::v1::{Presence, State};

use crate::cloud::SharedListing;
use crate::error::ObserveError;
use crate::pool::Pool;

/// Two requests to NATS, one after the other, at their slowest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The presence records of live workers.
pub async fn presences(client: &Client) -> Result<Vec<Presence>, ObserveError> {
    within(async { Ok(workers::read(client).await?) }).await
}

pub fn worker(presence: Presence) -> WorkerSeen {
    let state = match presence.state() {
        State::Unspecified | State::Starting => WorkerState::Starting,
        State::Idle => WorkerState::Idle,
        State::Busy => WorkerState::Busy,
        State::Draining => WorkerState::Draining,
        State::Drained => WorkerState::Drained,
    };
    let notice = (presence.notice_at_ms != 0).then_some(presence.notice_at_ms);
    WorkerSeen {
        state,
        notice_at: notice.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        rebalance: presence.rebalance,
        instance: presence.instance,
    }
}

pub async fn marks(client: &Client) -> Result<Marks, ObserveError> {
    within(async { Ok(Marks::read(client).await?) }).await
}

/// The queues as they were counted, if the counts can be trusted.
pub struct Counted {
    queues: Queues,
    looked: Looked,
    /// Workers start nothing, so waiting tasks are no work for instances. Renders continue.
    log_is_full: bool,
}

impl Counted {
    pub async fn read(
        client: &Client,
        pools: &Pools,
        samples: &Samples,
    ) -> Result<Self, ObserveError> {
        within(async {
            let (queues, log_is_full) = tokio::try_join!(
                async { Ok::<_, ObserveError>(Queues::read(client, pools).await?) },
                async { Ok(queue::log_is_full(client).await?) }
            )?;
            Ok(Self {
                looked: samples.read(client, &queues).await,
                queues,
                log_is_full,
            })
        })
        .await
    }

    /// Tasks of this pool that are not finished; none while the task log is too full to start one.
    pub fn runnable(
        &self,
        pool: &PoolConfig,
        marks: &Marks,
    ) -> Result<BTreeMap<Model, u64>, ObserveError> {
        marks.swept(ambient::now())?;
        Ok(match self.log_is_full {
            true => BTreeMap::new(),
            false => self.queues.tasks(&pool.models),
        })
    }

    /// The same by what they take.
    pub fn demand(&self, runnable: &BTreeMap<Model, u64>, presences: &[Presence]) -> Demand {
        Demand::new(runnable, &self.looked.sampled(presences))
    }

    /// Tasks of this pool that workers have in hand.
    pub fn rendering(
        &self,
        pools: &Pools,
        pool: &PoolName,
        presences: &[Presence],
        listing: &[SeenInstance],
    ) -> u64 {
        let has_ended = |id: &str| {
            let machine = listing.iter().find(|seen| seen.id == id);
            machine.is_some_and(|machine| !machine.is_alive())
        };
        let all = workers::rendering(pools, &self.queues, presences, has_ended);
        all.get(pool).copied().unwrap_or_default()
    }
}

/// What a pass reads before it is known whether a batch is active.
pub struct Facts {
    pub counted: Result<Counted, ObserveError>,
    pub presences: Result<Vec<Presence>, ObserveError>,
    pub marks: Option<Marks>,
    /// What all other batches have cost and cost now.
    pub spent: Option<Spend>,
    /// Seconds that a task took in the pool's last batches, and the time from launch to a serving worker.
    pub measured: Option<f64>,
    pub boot: Option<Duration>,
}

type Read = (
    Result<Option<RecordedBatch>, ReadError>,
    Result<Vec<Presence>, ObserveError>,
    Result<BTreeMap<PoolName, RecordedBatch>, ReadError>,
);

impl Pool {
    /// Everything that the decision about an active batch depends on.
    pub async fn observe(
        &mut self,
        batch: &Batch,
        listed: &SharedListing,
        policy: &Policy,
        facts: Facts,
    ) -> Observation {
        let listing = self.own(listed);
        let presences = self.known_or_said("workers", facts.presences);
        let marks = facts.marks.as_ref();
        let keep = marks.map(|marks| self.resident_units(marks, batch));
        let counted = facts.counted.and_then(|counted| {
            let marks = marks.ok_or(ObserveError::NoMarks)?;
            let runnable = counted.runnable(&self.config, marks)?;
            Ok((counted, runnable))
        });
        let work = self
            .known_or_said("queue", counted)
            .zip(presences.as_ref())
            .zip(keep)
            .map(|(((counted, runnable), presences), keep)| {
                let (pools, all) = (&self.fleet.pools, listed.instances());
                let rendering = counted.rendering(pools, &self.name, presences, all);
                let demand = counted.demand(&runnable, presences);
                let load = self.config.workload(&demand, &self.pace.learnt());
                let sizing = &self.config.rules.sizing;
                load.work(batch, rendering, keep, facts.measured, facts.boot, sizing)
            });
        let (work, needs) = work.unzip();
        self.present = presences.as_deref().map(instances);
        Observation {
            now: ambient::now(),
            cloud_now: listed.cloud_now(),
            listing,
            workers: presences.map(|all| all.into_iter().map(worker).collect()),
            work,
            needs: needs.unwrap_or_default(),
            market: self.cloud.market_of(policy),
            in_flight: self.held_back(batch),
            spent: facts.spent,
            quota: self.cloud.quota(listed.instances()),
            // Unknown: then the work is, too, and no instance is drained.
            keep: keep.unwrap_or_default(),
            tasks_done: self.tasks_done(batch).await,
        }
    }

    /// The newest event, the workers' presence records, and the newest events of all other pools.
    pub async fn read(&self) -> Read {
        let log = &self.fleet.batches;
        tokio::join!(log.last(&self.name), presences(log.client()), async {
            let mut newest = spend::newest(log, self.fleet.pools.pool.keys()).await?;
            newest.remove(&self.name);
            Ok(newest)
        })
    }

    fn own(&self, listed: &SharedListing) -> Vec<SeenInstance> {
        let ours = |seen: &&SeenInstance| seen.tag(tag::POOL) == Some(self.name.as_str());
        listed.instances().iter().filter(ours).cloned().collect()
    }

    /// Number of instances that stay without work.
    fn resident_units(&self, marks: &Marks, batch: &Batch) -> u32 {
        let there = batch.instances.iter().filter(|i| i.is_active()).count();
        let there = u32::try_from(there).unwrap_or(u32::MAX);
        marks.resident_units(&self.name, there, ambient::now())
    }

    /// Corrects the cost model by the tasks that ended since the last time, so that the number of instances follows.
    pub async fn follow_pace(&mut self) {
        let Some(batch) = self.known.as_ref().map(|known| known.batch.clone()) else {
            return;
        };
        let serves = batch
            .instances
            .iter()
            .any(|i| i.state == InstanceState::Serving);
        let Some(since) = self.pace.due(&batch).filter(|_| serves) else {
            return;
        };
        let client = self.fleet.batches.client();
        match batches::ended_on(client, &batch, since).await {
            Ok(ended) => self.pace.learn(client, &self.config, &batch, &ended).await,
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), batch = %batch.id, "tasks of the batch cannot be read");
            }
        }
    }

    /// Number of finished tasks. Counted only at the end of a batch: it reads a long part of the log.
    async fn tasks_done(&mut self, batch: &Batch) -> Option<u64> {
        if batch.empty_listings == 0 || !batch.instances.iter().all(Instance::is_gone) {
            return None;
        }
        let client = self.fleet.batches.client();
        match batches::ended_on(client, batch, batch.requested_at).await {
            Ok(ended) => {
                self.pace.learn(client, &self.config, batch, &ended).await;
                Some(ended.len() as u64)
            }
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), batch = %batch.id, "finished tasks of the batch cannot be counted");
                None
            }
        }
    }

    /// What all other batches have cost and cost now. `None`: it cannot be read.
    pub async fn spent(
        &self,
        ledger: &mut Ledger,
        own: Option<&RecordedBatch>,
        others: &Result<BTreeMap<PoolName, RecordedBatch>, ReadError>,
    ) -> Option<Spend> {
        let others = others
            .as_ref()
            .map(|all| all.values().map(|last| &last.batch));
        let read = match others {
            Ok(others) => {
                let (others, now) = (others.collect::<Vec<_>>(), ambient::now());
                let own = own.map(|own| &own.batch);
                let all: Vec<_> = others.iter().copied().chain(own).collect();
                let updated = ledger.update(&self.fleet.batches, &all, now).await;
                let rest: Vec<_> = all
                    .into_iter()
                    .filter(|b| b.id.pool != self.name || !b.is_active())
                    .collect();
                updated
                    .map(|()| ledger.spend(&rest, now))
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        self.known_or_said("spend", read)
    }
}

fn instances(presences: &[Presence]) -> HashSet<String> {
    let all = presences.iter();
    all.map(|presence| presence.instance.clone()).collect()
}

async fn within<T>(read: impl Future<Output = Result<T, ObserveError>>) -> Result<T, ObserveError> {
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or(Err(ObserveError::Timeout))
}
