//! Reading the truth: the queues' counts, the workers, the marks, the orders, the batch log; all at the same time, and
//! all anew for every decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use spotreel_bus::connect::REQUEST_TIMEOUT;
use spotreel_bus::controls::{self, Controls};
use spotreel_bus::jetstream::{self, ApiError};
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::names::{self, MARKS_BUCKET, PACE_MARK, SWEEPER_MARK, TASKS};
use spotreel_bus::{BatchLog, LogRoom, RecordedBatch, TaskLog, kv};
use spotreel_domain::batch::{Batch, PoolName};
use spotreel_domain::fleet::cloud::ErrorClass;
use spotreel_domain::pool::{PoolConfig, Pools};
use spotreel_domain::render_time::Corrections;
use spotreel_domain::trigger::{
    Blocker, BlockerKind, Hold, Mode, ModeState, Past, Prices, RunNow, Spend, View,
};
use spotreel_domain::{Lane, Model, batch};
use spotreel_proto::worker::v1::Presence;

use crate::error::LookError;
use crate::oldest::Oldest;

/// Counts are trusted for so long after the sweeper's mark: ten of its marks, so that one or two may be late.
pub const MARK_GOOD_FOR: Duration = Duration::from_secs(30);
/// In the bucket of marks, one a pool: whether machines stay.
const MODE_MARK: &str = "mode.";

pub struct Reader {
    pub client: Client,
    pub log: TaskLog,
    pub batches: BatchLog,
    pub pools: Arc<Pools>,
    pub oldest: Oldest,
    /// Nothing was known before.
    pub started: Timestamp,
}

/// What stood on the server at the time of one look.
pub struct Seen {
    pub at: Timestamp,
    pub queues: Queues,
    pub workers: Vec<Presence>,
    pub marks: Marks,
    pub controls: Controls,
    pub newest: BTreeMap<PoolName, RecordedBatch>,
    pub log_room: LogRoom,
}

pub type Queues = BTreeMap<(Model, Lane), Queue>;

#[derive(Clone, Copy, Debug)]
pub struct Queue {
    pub pending: u64,
    pub in_hand: u64,
    pub acked_to: u64,
    /// When the oldest task came that no worker has in hand.
    pub oldest: Option<Timestamp>,
}

#[derive(Default)]
pub struct Marks {
    pub swept_at: Option<Timestamp>,
    pub modes: BTreeMap<PoolName, ModeMark>,
    /// How far the cost model was off.
    pub paces: BTreeMap<PoolName, Corrections>,
}

/// What trigger writes down of a pool's mode; fleet keeps so many units.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, Deserialize)]
pub struct ModeMark {
    #[serde(flatten)]
    pub state: ModeState,
    pub resident_units: u32,
}

impl Reader {
    pub async fn read(&self, now: Timestamp) -> Result<Seen, LookError> {
        let (waiting, marks, controls, newest, log_room) = futures::try_join!(
            self.waiting(),
            async { self.marks().await.map_err(LookError::Marks) },
            async {
                controls::all(&self.client)
                    .await
                    .map_err(LookError::Controls)
            },
            self.newest(),
            async { LogRoom::of_log(&self.client).await.map_err(LookError::Room) },
        )?;
        let (queues, workers) = waiting;
        Ok(Seen {
            at: now,
            queues,
            workers,
            marks,
            controls,
            newest,
            log_room,
        })
    }

    /// The queues with their oldest entries, which are those that no worker has in hand.
    async fn waiting(&self) -> Result<(Queues, Vec<Presence>), LookError> {
        let (mut queues, workers) = futures::try_join!(self.queues(), async {
            kv::presences(&self.client)
                .await
                .map_err(LookError::Workers)
        })?;
        self.find_oldest(&mut queues, &workers).await?;
        Ok((queues, workers))
    }

    async fn queues(&self) -> Result<Queues, LookError> {
        let models = self.pools.pool.values().flat_map(|pool| &pool.models);
        let queues = models.flat_map(|model| Lane::ALL.map(|lane| (*model, lane)));
        let counts = queues.map(async |(model, lane)| {
            let consumer = names::work_consumer(model, lane);
            match count(&self.client, &consumer).await {
                Ok(queue) => Ok(((model, lane), queue)),
                Err(source) => Err(LookError::Count { consumer, source }),
            }
        });
        Ok(try_join_all(counts).await?.into_iter().collect())
    }

    async fn newest(&self) -> Result<BTreeMap<PoolName, RecordedBatch>, LookError> {
        let each = self
            .pools
            .pool
            .keys()
            .map(async |pool| (pool.clone(), self.batches.last(pool).await));
        let mut newest = BTreeMap::new();
        for (pool, last) in join_all(each).await {
            if let Some(last) = last.map_err(LookError::Batches)? {
                newest.insert(pool, last);
            }
        }
        Ok(newest)
    }

    async fn marks(&self) -> Result<Marks, ApiError> {
        #[derive(Deserialize)]
        struct Mark {
            at: Timestamp,
        }
        let prefix = format!("$KV.{MARKS_BUCKET}.");
        let filters = [
            format!("{prefix}{SWEEPER_MARK}"),
            format!("{prefix}{MODE_MARK}>"),
            format!("{prefix}{PACE_MARK}>"),
        ];
        let stream = format!("KV_{MARKS_BUCKET}");
        let query = json!({ "multi_last": filters });
        let mut marks = Marks::default();
        for stored in jetstream::direct_get(&self.client, &stream, &query).await? {
            let name = stored.subject.trim_start_matches(&prefix);
            if name == SWEEPER_MARK {
                let mark: Option<Mark> = serde_json::from_slice(&stored.payload).ok();
                marks.swept_at = mark.map(|mark| mark.at);
            } else if let Some(pool) = name.strip_prefix(MODE_MARK).map(PoolName::parse)
                && let Ok(pool) = pool
                && let Ok(mode) = serde_json::from_slice(&stored.payload)
            {
                marks.modes.insert(pool, mode);
            } else if let Some(pool) = name.strip_prefix(PACE_MARK).map(PoolName::parse)
                && let Ok(pool) = pool
                && let Ok(pace) = serde_json::from_slice(&stored.payload)
            {
                marks.paces.insert(pool, pace);
            }
        }
        Ok(marks)
    }

    /// In each queue, the first entry after those that were acked and that no worker says it has in hand.
    async fn find_oldest(
        &self,
        queues: &mut Queues,
        workers: &[Presence],
    ) -> Result<(), LookError> {
        let in_hand: BTreeSet<&str> = workers.iter().map(|w| w.task.as_str()).collect();
        let waiting = queues.iter().filter(|(_, queue)| queue.length() > 0);
        let found = waiting.map(async |(key, queue)| {
            let oldest = self
                .oldest
                .waiting(&self.log, *key, queue.acked_to, &in_hand);
            Ok::<_, spotreel_bus::log::ReadError>((*key, oldest.await?))
        });
        let found = try_join_all(found).await.map_err(LookError::Oldest)?;
        for (key, oldest) in found {
            if let Some(queue) = queues.get_mut(&key) {
                queue.oldest = oldest;
            }
        }
        Ok(())
    }

    pub async fn put_mode(&self, pool: &PoolName, mark: &ModeMark) -> Result<(), ApiError> {
        kv::put_mark(&self.client, &format!("{MODE_MARK}{pool}"), &json!(mark)).await
    }
}

async fn count(client: &Client, consumer: &str) -> Result<Queue, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
        ack_floor: Position,
    }
    #[derive(Deserialize)]
    struct Position {
        stream_seq: u64,
    }
    let subject = format!("$JS.API.CONSUMER.INFO.{TASKS}.{consumer}");
    let asked = jetstream::request::<Info>(
        client,
        &subject,
        HeaderMap::new(),
        "".into(),
        REQUEST_TIMEOUT,
    );
    asked.await.map(|info| Queue {
        pending: info.num_pending,
        in_hand: info.num_ack_pending,
        acked_to: info.ack_floor.stream_seq,
        oldest: None,
    })
}

impl Queue {
    pub fn length(&self) -> u64 {
        self.pending + self.in_hand
    }
}

impl Seen {
    pub fn newest_batches(&self) -> Vec<&Batch> {
        self.newest.values().map(|last| &last.batch).collect()
    }

    fn queues_of<'a>(&'a self, pool: &'a PoolConfig) -> impl Iterator<Item = &'a Queue> {
        let queues = self.queues.iter();
        queues
            .filter(|((model, _), _)| pool.models.contains(model))
            .map(|(_, queue)| queue)
    }

    fn tasks_of(&self, pool: &PoolConfig) -> BTreeMap<Model, u64> {
        let mut tasks = BTreeMap::new();
        for ((model, _), queue) in &self.queues {
            if pool.models.contains(model) {
                *tasks.entry(*model).or_default() += queue.length();
            }
        }
        tasks
    }

    /// Tasks of the pool that live workers say they render. One of one's own machines names no pool: its models tell.
    fn rendering(&self, name: &PoolName, pool: &PoolConfig) -> u64 {
        let ours = |worker: &&Presence| match worker.pool.as_str() {
            "" => {
                let mut models = worker.models.iter().filter_map(|model| Model::parse(model));
                models.any(|model| pool.models.contains(&model))
            }
            other => other == name.as_str(),
        };
        let busy = self.workers.iter().filter(|w| !w.task.is_empty());
        let said = busy.filter(ours).count() as u64;
        said.min(self.queues_of(pool).map(|queue| queue.in_hand).sum())
    }

    /// Everything that the decision about this pool is made on.
    pub fn view(&self, name: &PoolName, pool: &PoolConfig, reader: &Reader, known: Known) -> View {
        let newest = self.newest.get(name).map(|last| &last.batch);
        let work: u64 = self.queues_of(pool).map(Queue::length).sum();
        let queued = work - self.rendering(name, pool).min(work);
        let oldest = self.queues_of(pool).filter_map(|queue| queue.oldest).min();
        View {
            queued,
            work,
            oldest_queued_at: oldest.filter(|_| queued > 0),
            counts_stale_since: self.counts_stale_since(reader.started),
            past: known.past,
            active_batch: newest
                .filter(|batch| batch.is_active())
                .map(|batch| batch.id.to_string()),
            prices: known.prices,
            quota_units: known.quota_units,
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
            spend: known.spend,
            seconds_per_task: known.seconds_per_task,
            seconds_modelled: pool.seconds_by_model(
                &self.tasks_of(pool),
                self.marks
                    .paces
                    .get(name)
                    .unwrap_or(&Corrections::default()),
            ),
            arrivals_per_hour: known.arrivals_per_hour,
            mode: self.mode(name).state,
            pool_blockers: newest
                .map(|batch| blockers(batch, self.at))
                .into_iter()
                .flatten()
                .chain(self.log_full())
                .collect(),
        }
    }

    pub fn mode(&self, name: &PoolName) -> ModeMark {
        self.marks.modes.get(name).cloned().unwrap_or_default()
    }

    /// Workers would start nothing.
    fn log_full(&self) -> Option<Blocker> {
        self.log_room
            .is_used_to(ENDS_ONLY_PERCENT)
            .then(|| Blocker {
                kind: BlockerKind::LogFull,
                sentence: format!(
                    "{ENDS_ONLY_PERCENT} % of the task log's room is used, and workers start nothing until there is more: cancel tasks, let finished ones go sooner, or give the log more room"
                ),
                since: None,
                until: None,
            })
    }

    fn counts_stale_since(&self, started: Timestamp) -> Option<Timestamp> {
        let Some(swept_at) = self.marks.swept_at else {
            return Some(started);
        };
        let until = swept_at + MARK_GOOD_FOR;
        (until <= self.at).then_some(until)
    }
}

/// What does not stand on the server, or was read less often.
pub struct Known {
    pub past: Past,
    pub prices: Prices,
    pub quota_units: Option<u32>,
    pub spend: Spend,
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
            batch::Blocker::NoPlaceUnderCap => BlockerKind::NoPoolUnderCap,
            batch::Blocker::Quota => BlockerKind::Quota,
            batch::Blocker::Budget => BlockerKind::Budget,
            batch::Blocker::Configuration => BlockerKind::Configuration,
            batch::Blocker::PricesUnknown => BlockerKind::PricesUnknown,
            batch::Blocker::CountsUnknown => BlockerKind::CountsStale,
            batch::Blocker::NoCapacity => BlockerKind::BackOff,
            batch::Blocker::NeverServed => BlockerKind::NeverServed,
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
