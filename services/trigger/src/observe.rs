//! Reads the state for one pass: queue lengths, workers, status records, orders and the batch log, all at the same time.
//! `spotreel_pool` defines each fact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bus::controls::{self, Controls};
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::{BatchLog, RecordedBatch, TaskLog};
use spotreel_domain::Model;
use spotreel_domain::batch::{self, Batch, Instance, PoolName};
use spotreel_domain::fleet::cloud::ErrorClass;
use spotreel_domain::pool::{Cloud, PoolConfig, Pools};
use spotreel_domain::spend::Reserved;
use spotreel_domain::trigger::{
    Blocker, BlockerKind, Hold, Mode, Past, Prices, RunNow, Spend, View,
};
use spotreel_domain::workload::{Demand, Sampled, Workload};
use spotreel_pool::marks::{Marks, ModeMark, NotSwept};
use spotreel_pool::oldest::Oldest;
use spotreel_pool::queue::{self, Queues};
use spotreel_pool::samples::Samples;
use spotreel_pool::{spend, workers};
use spotreel_proto::worker::v1::Presence;

use crate::error::LookError;

pub struct StateReader {
    pub client: Client,
    pub log: TaskLog,
    pub batches: BatchLog,
    pub pools: Arc<Pools>,
    pub oldest: Oldest,
    pub samples: Samples,
    /// Nothing was known before.
    pub started: Timestamp,
}

/// The state on the NATS server at the time of one pass.
pub struct Snapshot {
    pub at: Timestamp,
    pub queues: Queues,
    /// What some of the tasks are.
    pub samples: BTreeMap<Model, Vec<Sampled>>,
    pub rendering: BTreeMap<PoolName, u64>,
    pub marks: Marks,
    pub controls: Controls,
    pub newest: BTreeMap<PoolName, RecordedBatch>,
    pub log_is_full: bool,
    /// Batches that were asked for since. They may be in the log now.
    pub requested: Vec<Batch>,
}

impl StateReader {
    pub async fn read(&self, now: Timestamp) -> Result<Snapshot, LookError> {
        let client = &self.client;
        let (waiting, marks, controls, newest, log_is_full) = futures::try_join!(
            self.waiting(),
            async { Marks::read(client).await.map_err(LookError::Marks) },
            async { controls::all(client).await.map_err(LookError::Controls) },
            async {
                let newest = spend::newest(&self.batches, self.pools.pool.keys()).await;
                newest.map_err(LookError::Batches)
            },
            async { queue::log_is_full(client).await.map_err(LookError::Room) },
        )?;
        let (queues, workers) = waiting;
        let samples = self.samples.read(client, &queues).await.sampled(&workers);
        let has_ended = |id: &str| {
            let mut batches = newest.values().map(|last: &RecordedBatch| &last.batch);
            batches.any(|batch| batch.instance(id).is_some_and(Instance::is_gone))
        };
        Ok(Snapshot {
            at: now,
            rendering: workers::rendering(&self.pools, &queues, &workers, has_ended),
            queues,
            samples,
            marks,
            controls,
            newest,
            log_is_full,
            requested: Vec::new(),
        })
    }

    /// The queues with their oldest entries, which are those that no worker has in hand.
    async fn waiting(&self) -> Result<(Queues, Vec<Presence>), LookError> {
        let (mut queues, workers) = futures::try_join!(
            async {
                let queues = Queues::read(&self.client, &self.pools).await;
                queues.map_err(LookError::Count)
            },
            async {
                let workers = workers::read(&self.client).await;
                workers.map_err(LookError::Workers)
            }
        )?;
        let found = queues.find_oldest(&self.oldest, &self.log, &workers).await;
        found.map_err(LookError::Oldest)?;
        Ok((queues, workers))
    }
}

impl Snapshot {
    pub fn newest_batches(&self) -> Vec<&Batch> {
        self.newest.values().map(|last| &last.batch).collect()
    }

    /// What waits for the pool, and which of its types can render it.
    pub fn load(&self, name: &PoolName, pool: &PoolConfig) -> Workload {
        let demand = Demand::new(&self.queues.tasks(&pool.models), &self.samples);
        pool.workload(&demand, &self.marks.pace(name))
    }

    /// Everything that the decision about this pool is made on.
    pub fn view(
        &self,
        name: &PoolName,
        pool: &PoolConfig,
        reader: &StateReader,
        facts: PoolFacts,
    ) -> View {
        let newest = self.newest.get(name).map(|last| &last.batch);
        let work = facts.load.tasks;
        let starts = pool.cloud == Cloud::Aws;
        let rendering = self.rendering.get(name).copied().unwrap_or_default();
        let queued = work - rendering.min(work);
        let oldest = self.queues.oldest(&pool.models);
        View {
            queued,
            work,
            oldest_queued_at: oldest.filter(|_| queued > 0),
            counts_stale_since: match self.marks.swept(self.at) {
                Ok(()) => None,
                Err(NotSwept::Never) => Some(reader.started),
                Err(NotSwept::Since(at)) => Some(at),
            },
            past: facts.past,
            active_batch: newest
                .filter(|batch| batch.is_active())
                .map(|batch| batch.id.to_string()),
            prices: facts.prices,
            quota_units: facts.quota_units,
            hold: self.controls.holds.get(name).map(|held| Hold {
                by: held.order.by.clone(),
                reason: held.order.reason.clone(),
                since: held.order.since,
            }),
            run_now: self.controls.runs.get(name).map(|ordered| RunNow {
                by: ordered.order.by.clone(),
                at: ordered.order.at,
                force: ordered.order.force,
            }),
            spend: facts.spend,
            reserved: facts.reserved,
            seconds_per_task: facts.seconds_per_task,
            seconds_modelled: facts.load.seconds,
            startup_s: starts.then(|| facts.load.startup(facts.boot).as_secs()),
            unrenderable: facts.load.unrenderable,
            arrivals_per_hour: facts.arrivals_per_hour,
            mode: self.marks.mode(name).state,
            resident_units: self.marks.mode(name).resident_units,
            pool_blockers: newest
                .map(|batch| blockers(batch, self.at))
                .into_iter()
                .flatten()
                .chain(self.log_full())
                .collect(),
        }
    }

    /// Workers would start nothing.
    fn log_full(&self) -> Option<Blocker> {
        self.log_is_full.then(|| Blocker {
            kind: BlockerKind::LogFull,
            sentence: format!(
                "{ENDS_ONLY_PERCENT} % of the task log's room is used, and workers start nothing until there is more: cancel tasks, let finished ones go sooner, or give the log more room"
            ),
            since: None,
            until: None,
        })
    }
}

/// Facts about a pool that are not in a [`Snapshot`]: they were computed, or are read less often.
pub struct PoolFacts {
    pub past: Past,
    pub prices: Prices,
    pub quota_units: Option<u32>,
    pub spend: Spend,
    pub reserved: Reserved,
    pub load: Workload,
    /// What the pool's machines took to boot.
    pub boot: Option<Duration>,
    pub seconds_per_task: Option<f64>,
    pub arrivals_per_hour: u64,
}

/// What fleet has run into, as the newest batch tells: for as long as it says so.
fn blockers(newest: &Batch, now: Timestamp) -> Vec<Blocker> {
    let whole_account = newest
        .penalties
        .iter()
        .filter(|penalty| penalty.place.is_none() && penalty.until > now);
    let mut blockers: Vec<_> = whole_account
        .filter_map(|penalty| {
            let kind = match penalty.class {
                ErrorClass::Quota => BlockerKind::Quota,
                ErrorClass::Configuration => BlockerKind::Configuration,
                _ => return None,
            };
            Some(Blocker {
                kind,
                sentence: format!("{}: {}", penalty.code, penalty.message),
                since: None,
                until: Some(penalty.until),
            })
        })
        .collect();
    if let Some(blocked) = newest.blocked.as_ref().filter(|_| newest.is_active()) {
        let kind = match blocked.by {
            batch::BlockedBy::NoPlaceUnderCap => BlockerKind::NoPoolUnderCap,
            batch::BlockedBy::Quota => BlockerKind::Quota,
            batch::BlockedBy::Budget => BlockerKind::Budget,
            batch::BlockedBy::Configuration => BlockerKind::Configuration,
            batch::BlockedBy::PricesUnknown => BlockerKind::PricesUnknown,
            batch::BlockedBy::CountsUnknown => BlockerKind::CountsStale,
            batch::BlockedBy::NoCapacity => BlockerKind::BackOff,
            batch::BlockedBy::NeverServed => BlockerKind::NeverServed,
        };
        blockers.push(Blocker {
            kind,
            sentence: blocked.sentence.clone(),
            since: Some(blocked.since),
            until: None,
        });
    }
    blockers
}

/// Whether the mark has to be written anew.
pub fn mode_differs(before: &ModeMark, mode: Mode, resident_units: u32) -> bool {
    before.state.mode != mode || before.resident_units != resident_units
}
