//! Reads the facts for one look, each by itself: what cannot be read is not known, and the others are.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::Client;
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{TASKS, work_consumer};
use spotreel_bus::{BatchLog, LogRoom, RecordedBatch, Undecodable, controls, kv};
use spotreel_domain::alarm::{
    AlarmBoard, AlarmFacts, AlarmName, AlarmsConfig, Happening, Mean, PoolHealth, SUCCESS_IS_RECENT,
};
use spotreel_domain::batch::{
    Batch, BlockedBy, Ending, Instance, InstanceState, Leaving, PoolName,
};
use spotreel_domain::{Lane, Model};
use spotreel_pool::spend::{self, Ledger};

use super::ends::{Ends, TaskEnd};
use super::programs::Programs;
use crate::mirror;

/// Longest outage whose events are looked through afterwards.
const LONGEST_OUTAGE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Of an error that is told.
const LONGEST_ERROR: usize = 120;

pub(super) struct Observer {
    client: Client,
    batches: BatchLog,
    ledger: Ledger,
    failures: Ends,
    successes: Ends,
    queue: Mean,
    programs: Programs,
    health: Health,
}

/// Unfinished tasks by model.
type Lengths = BTreeMap<Model, u64>;

impl Observer {
    pub fn new(client: &Client, config: &AlarmsConfig, batches: BatchLog, health: Health) -> Self {
        Self {
            client: client.clone(),
            batches,
            ledger: Ledger::default(),
            failures: Ends::of(client, "spotreel.log.*.failed"),
            successes: Ends::of(client, "spotreel.log.*.succeeded"),
            queue: Mean::over(config.backlog.mean_over),
            programs: Programs::new(client),
            health,
        }
    }

    /// `board` is that of the last look: what has happened since is looked at now.
    pub async fn read(&mut self, config: &AlarmsConfig, board: &AlarmBoard) -> AlarmFacts {
        let now = ambient::now();
        // Twice the span: the first of those that are looked at may end one.
        let since = |name, within| {
            let looked_at = board.looked_at(name).max(now - LONGEST_OUTAGE);
            before(looked_at.min(before(now, within)), within)
        };
        let newest = known("the batch log", spend::newest(&self.batches, []).await);
        let lengths = known("the queues", lengths(&self.client).await);
        let room = known("the task log", LogRoom::of_log(&self.client).await);
        let within = config.tasks_failed.within;
        let failures = self.failures.since(since(AlarmName::TasksFailed, within));
        let failures = known("failed tasks", failures.await).flatten();
        let successes = self.successes.since(before(now, SUCCESS_IS_RECENT));
        let successes = known("succeeded tasks", successes.await).flatten();
        let spend = match &newest {
            Some(newest) => self.spend(newest, now).await,
            None => None,
        };
        let interruptions = match &newest {
            Some(newest) => {
                let within = config.interruptions.within;
                let since = since(AlarmName::Interruptions, within);
                let read = self.interruptions(newest, since);
                known("interruptions", read.await)
            }
            None => None,
        };
        let pools = match (&newest, &lengths, &successes) {
            (Some(newest), Some(lengths), Some(successes)) => {
                self.pools(newest, lengths, successes).await
            }
            _ => None,
        };
        AlarmFacts {
            today: spend.map(|spend| spend.today),
            this_month: spend.map(|spend| spend.this_month),
            queue: lengths.and_then(|of| self.queue.seen(now, of.values().sum())),
            interruptions,
            failures: failures.map(|ends| ends.iter().map(failure).collect()),
            pools,
            log_used_percent: room.map(LogRoom::used_percent),
            events_copy: self.events_copy(),
            programs: self.programs(config, board).await,
        }
    }

    async fn spend(
        &mut self,
        newest: &BTreeMap<PoolName, RecordedBatch>,
        now: Timestamp,
    ) -> Option<spotreel_domain::spend::Spend> {
        let all: Vec<&Batch> = newest.values().map(|last| &last.batch).collect();
        let updated = self.ledger.update(&self.batches, &all, now).await;
        known("ended batches", updated)?;
        Some(self.ledger.spend(&all, now))
    }

    /// Of the newest batch of each pool, and of those that have ended since.
    async fn interruptions(
        &self,
        newest: &BTreeMap<PoolName, RecordedBatch>,
        since: Timestamp,
    ) -> Result<Vec<Happening>, ReadError> {
        let ended = self
            .batches
            .finals(None, since, Undecodable::IsPassedOver)
            .await?;
        let batches = ended.iter().chain(newest.values());
        let instances = batches.flat_map(|of| of.batch.instances.iter().map(move |i| (of, i)));
        let taken: BTreeMap<&str, Happening> = instances
            .filter_map(|(of, instance)| {
                let at = interrupted_at(instance).filter(|at| *at >= since)?;
                let what = format!("{} ({}) of {}", instance.id, instance.place, of.batch.id);
                Some((instance.id.as_str(), Happening { at, what }))
            })
            .collect();
        let mut taken: Vec<_> = taken.into_values().collect();
        taken.sort_by_key(|one| one.at);
        Ok(taken)
    }

    async fn pools(
        &self,
        newest: &BTreeMap<PoolName, RecordedBatch>,
        lengths: &Lengths,
        successes: &[TaskEnd],
    ) -> Option<BTreeMap<PoolName, PoolHealth>> {
        let controls = known("the orders", controls::all(&self.client).await)?;
        let presences = known("the workers", kv::presences(&self.client).await)?;
        let mut pools = BTreeMap::new();
        for (pool, last) in newest {
            let mut health = of_batch(&last.batch);
            // Fleet has given up: nothing is launched until a person resumes it.
            let held = controls.holds.get(pool).map(|held| &held.order);
            if let Some(held) = held.filter(|held| held.config.is_some()) {
                health.breaker = Some(held.reason.clone());
            }
            let ours = presences.iter().filter(|said| said.pool == pool.as_str());
            let models: BTreeSet<_> = ours.flat_map(|said| &said.models).collect();
            let waits = |(model, length): (&Model, &u64)| {
                *length > 0 && models.iter().any(|name| *name == model.as_str())
            };
            if lengths.iter().any(waits) {
                health.fruitless = fruitless(&last.batch, successes);
            }
            pools.insert(pool.clone(), health);
        }
        Some(pools)
    }

    fn events_copy(&self) -> Option<Result<(), String>> {
        let checks = self.health.readiness().checks;
        let check = checks.get(mirror::CHECK)?;
        Some(match check.ok {
            true => Ok(()),
            false => Err(check.reason.clone().unwrap_or_default()),
        })
    }

    async fn programs(
        &mut self,
        config: &AlarmsConfig,
        board: &AlarmBoard,
    ) -> Option<BTreeMap<String, bool>> {
        let watched = &config.service_silent.programs;
        if !config.service_silent.on {
            return None;
        }
        let answering = self.programs.answering(watched).await?;
        let answers = watched.iter().map(|name| (name, answering.contains(name)));
        let counted = answers.filter(|(name, answers)| *answers || board.programs.contains(*name));
        Some(
            counted
                .map(|(name, answers)| (name.clone(), answers))
                .collect(),
        )
    }
}

/// What was read; of an error only the log tells, since the alarms stay as they are.
fn known<T, E: std::error::Error + 'static>(what: &str, read: Result<T, E>) -> Option<T> {
    read.inspect_err(|error| {
        tracing::debug!(error = %spotreel_domain::chain(error), what, "alarms cannot read this now");
    })
    .ok()
}

fn before(at: Timestamp, span: std::time::Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    at.checked_sub(span).unwrap_or(Timestamp::MIN)
}

async fn lengths(client: &Client) -> Result<Lengths, JetStreamError> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
    }
    let lanes = Model::ALL
        .into_iter()
        .flat_map(|model| Lane::ALL.map(|lane| (model, lane)));
    let counted = lanes.map(async |(model, lane)| {
        let consumer = work_consumer(model, lane);
        let info: Info = jetstream::consumer_info(client, TASKS, &consumer).await?;
        Ok::<_, JetStreamError>((model, info.num_pending + info.num_ack_pending))
    });
    let mut lengths = Lengths::new();
    for (model, length) in try_join_all(counted).await? {
        *lengths.entry(model).or_default() += length;
    }
    Ok(lengths)
}

fn failure(end: &TaskEnd) -> Happening {
    let error: String = end.error.chars().take(LONGEST_ERROR).collect();
    Happening {
        at: end.at,
        what: format!("{}: {error}", end.task),
    }
}

fn interrupted_at(instance: &Instance) -> Option<Timestamp> {
    match instance.state {
        InstanceState::Draining {
            why: Leaving::Interruption,
            since,
            ..
        }
        | InstanceState::Terminating {
            why: Leaving::Interruption,
            since,
            ..
        } => Some(since),
        InstanceState::Gone {
            ending: Ending::Interrupted,
            at,
        } => Some(at),
        _ => None,
    }
}

fn of_batch(batch: &Batch) -> PoolHealth {
    if !batch.is_active() {
        return PoolHealth::default();
    }
    let blocked = batch.blocked.as_ref();
    let sentence = |never_served: bool| {
        let is_of = |by: BlockedBy| (by == BlockedBy::NeverServed) == never_served;
        let blocked = blocked.filter(|blocked| is_of(blocked.by))?;
        Some(format!("batch {}: {}", batch.id, blocked.sentence))
    };
    PoolHealth {
        blocked: sentence(false),
        breaker: sentence(true).filter(|_| batch.breaker.pauses > 0),
        fruitless: None,
    }
}

/// Why it seems that a batch works for nothing: of its instances that serve, none has finished a task for a while.
fn fruitless(batch: &Batch, successes: &[TaskEnd]) -> Option<String> {
    let serves = |one: &&Instance| one.state == InstanceState::Serving;
    let serving = batch.instances.iter().filter(serves).count();
    let succeeded = successes
        .iter()
        .any(|end| batch.instance(&end.instance).is_some());
    (batch.is_active() && serving > 0 && !succeeded).then(|| {
        format!(
            "{serving} instances of batch {} serve and tasks wait, and none has succeeded for a while",
            batch.id
        )
    })
}
