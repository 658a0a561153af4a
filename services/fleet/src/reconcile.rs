//! The reconcile loop of a pool: lists the instances, reads the record, decides, writes, acts.
//!
//! The order is the safety: what is listed and stands in no record is nobody's, and nothing is called whose intent is
//! not durable. Whoever was overtaken loses at the write and calls nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use spotreel_bootstrap::ambient;
use spotreel_bus::RecordedBatch;
use spotreel_bus::batches;
use spotreel_bus::controls::{self, Hold};
use spotreel_bus::jetstream::ApiError;
use spotreel_bus::log::{AppendError, ReadError};
use spotreel_domain::batch::{Batch, BatchId, DrainMode, Instance, InstanceState, PoolName, Stop};
use spotreel_domain::fleet::reconcile::holds_its_pool;
use spotreel_domain::fleet::{Observation, Policy, idle_that_stay, reconcile};
use spotreel_domain::ledger::Spend;
use spotreel_domain::pool::PoolConfig;
use spotreel_pool::marks::Marks;
use spotreel_pool::spend::{self, Ledger};
use spotreel_proto::worker::v1::Presence;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act::{self, Called, Replay};
use crate::cloud::{Cloud, Listed};
use crate::error::{ObserveError, RoundError};
use crate::observe::Counted;
use crate::pace::Pace;
use crate::wake::Bell;
use crate::{Fleet, crash, metrics, observe};

/// Maximum number of lost compare-and-set races in a row; more is no coincidence.
pub const CAS_TRIES: usize = 16;
/// Delay before a pass that found nothing new is repeated: a message is delivered a moment before it can be read.
const SETTLE: Duration = Duration::from_millis(300);
/// After a round that could not be ended.
const BLIND: Duration = Duration::from_secs(2);
/// The checks of a pool that its passes set.
const CHECKS: [&str; 5] = ["queue", "workers", "marks", "spend", "launches"];
/// A batch that trigger requested from a newer pools file waits so long for a fleet that has it.
const NEWER_FLEET: SignedDuration = SignedDuration::from_hours(1);
/// A call that is under way at a stop is waited for; its answer spares the next fleet a replay.
const LAST_CALL: Duration = Duration::from_secs(15);

type Read = (
    Result<Option<RecordedBatch>, ReadError>,
    Result<Vec<Presence>, ObserveError>,
    Result<BTreeMap<PoolName, RecordedBatch>, ReadError>,
);

pub struct Pool {
    pub fleet: Arc<Fleet>,
    pub cloud: Arc<Cloud>,
    pub name: PoolName,
    pub config: PoolConfig,
    /// As configured; what the cloud lacks of it is left out round by round.
    pub policy: Policy,
    pub bell: Arc<Bell>,
    pub called_sender: mpsc::Sender<Called>,
    /// The record as it was last read or written here.
    pub known: Option<RecordedBatch>,
    /// The launch whose intent this loop has written and whose call has not been made before.
    pub fresh: Option<(BatchId, u32)>,
    pub in_flight: Option<u32>,
    pub replay: Replay,
    /// The machines whose workers were heard of at the last look.
    pub present: Option<HashSet<String>>,
    /// Ends that were asked for while the record could not take it.
    pub asked_blindly: HashMap<String, Instant>,
    /// Why its batch is to end, where the configuration buys nothing for this pool.
    ends_for: Option<String>,
    pace: Pace,
}

impl Pool {
    pub fn new(
        fleet: Arc<Fleet>,
        cloud: Arc<Cloud>,
        config: PoolConfig,
        policy: Policy,
        bell: Arc<Bell>,
    ) -> (Self, mpsc::Receiver<Called>) {
        let (called_sender, called) = mpsc::channel(1);
        let pool = Self {
            fleet,
            cloud,
            name: policy.pool.clone(),
            config,
            policy,
            bell,
            called_sender,
            known: None,
            fresh: None,
            in_flight: None,
            replay: Replay::default(),
            present: None,
            asked_blindly: HashMap::new(),
            ends_for: None,
            pace: Pace::default(),
        };
        (pool, called)
    }

    /// Its batch is stopped at once, and none is expected after it.
    pub fn ends_for(self, reason: String) -> Self {
        Self {
            ends_for: Some(reason),
            ..self
        }
    }

    /// Rounds while this fleet leads, until told to stop.
    pub async fn run(mut self, mut called: mpsc::Receiver<Called>, stopping: CancellationToken) {
        let mut look_at = Instant::now();
        let mut last_began: Option<Instant> = None;
        let mut woken = false;
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                Some(answer) = called.recv() => {
                    self.hear_answer(answer).await;
                    look_at = Instant::now();
                    continue;
                }
                () = self.fleet.follows() => {
                    // What was known may be overtaken once it leads again, and what it found is the leader's to tell.
                    self.known = None;
                    self.recover(&CHECKS);
                    tokio::select! {
                        () = self.fleet.leads() => look_at = Instant::now(),
                        () = stopping.cancelled() => break,
                    }
                    continue;
                }
                () = tokio::time::sleep_until(look_at) => {}
                () = self.bell.rung() => {
                    if !self.bell.has_news(self.known.as_ref().map(|known| &known.batch)) {
                        continue;
                    }
                    woken = true;
                    let gap = self.fleet.config.rounds.gap;
                    if let Some(at) = last_began.map(|began| began + gap).filter(|at| *at > Instant::now()) {
                        look_at = look_at.min(at);
                        continue;
                    }
                }
            }
            if !self.fleet.is_leader() {
                continue;
            }
            last_began = Some(Instant::now());
            let before = self.known.as_ref().map(|known| known.sequence);
            let pause = match Box::pin(self.round()).await {
                Ok(pause) => pause,
                Err(error) => self.go_on_blind(&error).await,
            };
            let unchanged = before == self.known.as_ref().map(|known| known.sequence);
            let again = std::mem::take(&mut woken) && unchanged;
            look_at = Instant::now() + if again { pause.min(SETTLE) } else { pause };
        }
        self.take_leave(called).await;
    }

    async fn take_leave(&mut self, mut called: mpsc::Receiver<Called>) {
        if self.in_flight.is_none() {
            return;
        }
        if let Ok(Some(answer)) = tokio::time::timeout(LAST_CALL, called.recv()).await {
            self.hear_answer(answer).await;
        }
    }

    /// One look, and what follows from it; how long until the next.
    async fn round(&mut self) -> Result<Duration, RoundError> {
        let fleet = Arc::clone(&self.fleet);
        let client = fleet.batches.client();
        let count = || async {
            tokio::join!(
                Counted::read(client, &fleet.pools, &fleet.samples),
                observe::marks(client)
            )
        };
        self.follow_pace().await;
        // The queue may be counted meanwhile. The record may not be read before the listing is there, nor what woke this
        // round: it was heard before it was stored.
        let cloud = Arc::clone(&self.cloud);
        let (listed, counted) = tokio::join!(cloud.list(), count());
        let (listed, mut counted) = (listed?, Some(counted));
        for _ in 0..CAS_TRIES {
            self.connected()?;
            let (counted, marks) = match counted.take() {
                Some(counted) => counted,
                None => count().await,
            };
            // What this round buys, the round of another pool counts.
            let mut ledger = fleet.ledger.lock().await;
            let (record, presences, others) = self.read().await;
            self.fleet.said_record(&record);
            let record = record?;
            self.note(record.as_ref());
            let spent = self.spent(&mut ledger, record.as_ref(), &others).await;
            let (measured, boot) = (ledger.seconds_per_task(&self.name), ledger.boot(&self.name));
            let marks = self.known_or_said("marks", marks);
            if let Some(marks) = &marks {
                self.pace.recall(marks, &self.name);
            }
            let record = match record {
                Some(record) if record.batch.is_active() => record,
                ended => {
                    drop(ledger);
                    return self.rest(ended.as_ref()).await;
                }
            };
            // An operator's stop is enough.
            if self.ends_for.is_some() && record.batch.stop.is_none() {
                let Some(stopped) = self.to_be_stopped(&record.batch) else {
                    return Ok(self.fleet.config.rounds.idle);
                };
                self.write(&record, &stopped).await?;
                continue;
            }
            let policy = self.cloud.fitted(&self.policy);
            let listing = self.own(&listed);
            let presences = self.known_or_said("workers", presences);
            let keep = marks
                .as_ref()
                .map(|marks| self.resident_units(marks, &record.batch));
            let counted = counted.and_then(|counted| {
                let marks = marks.as_ref().ok_or(ObserveError::NoMarks)?;
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
                    let (batch, sizing) = (&record.batch, &self.config.rules.sizing);
                    load.work(batch, rendering, keep, measured, boot, sizing)
                });
            let (work, needs) = work.unzip();
            self.present = presences.as_deref().map(instances);
            let seen = Observation {
                now: ambient::now(),
                cloud_now: listed.cloud_now(),
                listing,
                workers: presences.map(|all| all.into_iter().map(observe::worker).collect()),
                work,
                needs: needs.unwrap_or_default(),
                market: self.cloud.market_of(&policy),
                in_flight: self.held_back(&record.batch),
                spent,
                quota: self.cloud.quota(listed.instances()),
                // Unknown: then the work is, too, and nobody is sent away.
                keep: keep.unwrap_or_default(),
                tasks_done: self.tasks_done(&record.batch).await,
            };
            let round = reconcile(&record.batch, &seen, &policy);
            if round.batch != record.batch && !self.write(&record, &round.batch).await? {
                continue;
            }
            drop(ledger);
            self.forget_refusal(Some(&round.batch));
            metrics::round(self.name.as_str(), "done");
            let client = self.fleet.batches.client();
            act::tell_to_stay(client, &idle_that_stay(&round.batch, &seen)).await;
            self.act(round.effects, &policy, listed.cloud_now()).await?;
            return Ok(round.look_again);
        }
        metrics::round(self.name.as_str(), "overtaken");
        Ok(SETTLE)
    }

    /// How many instances stay without work.
    fn resident_units(&self, marks: &Marks, batch: &Batch) -> u32 {
        let there = batch.instances.iter().filter(|i| i.is_active()).count();
        let there = u32::try_from(there).unwrap_or(u32::MAX);
        marks.resident_units(&self.name, there, ambient::now())
    }

    /// No batch is active.
    async fn rest(&self, ended: Option<&RecordedBatch>) -> Result<Duration, RoundError> {
        self.forget_refusal(ended.map(|record| &record.batch));
        // Nobody asks for them while there is no batch.
        self.recover(&["queue", "workers"]);
        if self.ends_for.is_none() {
            self.lift_hold().await?;
        }
        metrics::round(self.name.as_str(), "idle");
        Ok(self.fleet.config.rounds.idle)
    }

    /// The batch of a pool that this fleet buys nothing for, stopped. Not if trigger requested it since this fleet started:
    /// then trigger has a newer file, in which the pool is, unless nobody launches anything for it for long.
    fn to_be_stopped(&self, batch: &Batch) -> Option<Batch> {
        let now = ambient::now();
        let is_newer = batch.requested_at > self.fleet.started_at;
        let is_left = batch.launches.is_empty() && batch.requested_at < now - NEWER_FLEET;
        if is_newer && !is_left {
            return None;
        }
        Some(batch.stopped(Stop {
            mode: DrainMode::Now,
            by: "fleet".to_owned(),
            reason: Some(self.ends_for.clone()?),
            at: now,
        }))
    }

    /// What a round stands on beside the listing. One after the other would be slower, and each is only as true as the
    /// moment it was read at.
    async fn read(&self) -> Read {
        let log = &self.fleet.batches;
        tokio::join!(
            log.last(&self.name),
            observe::presences(log.client()),
            async {
                let mut newest = spend::newest(log, self.fleet.pools.pool.keys()).await?;
                newest.remove(&self.name);
                Ok(newest)
            },
        )
    }

    fn own(&self, listed: &Listed) -> Vec<spotreel_domain::fleet::cloud::Seen> {
        use spotreel_domain::fleet::cloud::tag;
        let ours = listed
            .instances()
            .iter()
            .filter(|seen| seen.tag(tag::POOL) == Some(self.name.as_str()));
        ours.cloned().collect()
    }

    /// Writes the new state over the record that it was made from. False: somebody else wrote first.
    async fn write(&mut self, record: &RecordedBatch, batch: &Batch) -> Result<bool, RoundError> {
        let launches = |batch: &Batch| batch.launches.last().map_or(0, |launch| launch.seq);
        let intends = launches(batch) > launches(&record.batch);
        if intends {
            crash::point("before-intent");
        }
        // Before the batch ends: once it has, trigger may ask for the next one.
        if let Some(reason) = holds_its_pool(batch, &self.policy) {
            self.hold(reason).await?;
        }
        match self.fleet.batches.append(batch, record.sequence).await {
            Ok(sequence) => {
                if intends {
                    crash::point("after-intent");
                    self.fresh = Some((batch.id.clone(), launches(batch)));
                }
                self.wrote(record, batch, sequence);
                Ok(true)
            }
            Err(AppendError::Conflict(_)) => Ok(false),
            Err(error) => Err(RoundError::Append(Box::new(error))),
        }
    }

    /// Nothing is bought for the pool until a person resumes it, or this configuration is another.
    async fn hold(&self, reason: String) -> Result<(), RoundError> {
        let client = self.fleet.batches.client();
        if controls::all(client).await?.holds.contains_key(&self.name) {
            return Ok(());
        }
        let hold = Hold {
            by: "fleet".to_owned(),
            reason,
            since: ambient::now(),
            config: Some(self.policy.fingerprint()),
        };
        controls::hold(client, &self.name, &hold).await?;
        tracing::error!(pool = %self.name, reason = hold.reason, "pool put on hold: instances end before they serve");
        Ok(())
    }

    /// Lifts a hold of fleet's own that was made under another configuration.
    async fn lift_hold(&self) -> Result<(), RoundError> {
        let client = self.fleet.batches.client();
        let holds = controls::all(client).await?.holds;
        let Some(held) = holds.get(&self.name) else {
            return Ok(());
        };
        let ours = self.policy.fingerprint();
        if held
            .order
            .config
            .as_ref()
            .is_none_or(|config| *config == ours)
        {
            return Ok(());
        }
        match controls::lift(client, &self.name, held.revision).await {
            Ok(()) => {
                tracing::info!(pool = %self.name, "hold removed: the pool's configuration has changed");
                Ok(())
            }
            // Another order stands there by now.
            Err(ApiError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn wrote(&mut self, before: &RecordedBatch, batch: &Batch, sequence: u64) {
        tell(&before.batch, batch);
        metrics::batch(&before.batch, batch, batch.at);
        self.known = Some(RecordedBatch {
            sequence,
            batch: batch.clone(),
            ..before.clone()
        });
    }

    fn note(&mut self, record: Option<&RecordedBatch>) {
        if let Some(record) = record {
            let known = self
                .known
                .as_ref()
                .filter(|known| known.batch.id == record.batch.id);
            let before = known.map_or(&record.batch, |known| &known.batch);
            metrics::batch(before, &record.batch, record.batch.at);
        }
        self.asked_blindly.clear();
        self.known = record.cloned();
    }

    pub fn connected(&self) -> Result<(), RoundError> {
        match self.fleet.is_connected() {
            true => Ok(()),
            false => Err(RoundError::Disconnected),
        }
    }

    fn recover(&self, checks: &[&str]) {
        for what in checks {
            let check = format!("pool {} {what}", self.name);
            self.fleet.conditions.recover(&check);
        }
    }

    fn known_or_said<T>(&self, what: &str, read: Result<T, ObserveError>) -> Option<T> {
        let check = format!("pool {} {what}", self.name);
        let said = read.as_ref().map(drop).map_err(ToString::to_string);
        self.fleet.conditions.set(&check, said);
        read.ok()
    }

    /// From the tasks that ended since the last look, once in a while, so that the number of machines follows.
    async fn follow_pace(&mut self) {
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

    /// Counted only at the end of a batch: it takes a walk through the log.
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

    /// What all other batches have cost and cost now. None: it cannot be read.
    async fn spent(
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
        let check = format!("pool {} spend", self.name);
        self.fleet
            .conditions
            .set(&check, read.as_ref().map(drop).map_err(Clone::clone));
        read.ok()
    }

    /// Something cannot be seen: nothing is launched, and what the record demands is ended all the same.
    async fn go_on_blind(&mut self, error: &RoundError) -> Duration {
        let said = spotreel_domain::chain(error);
        tracing::debug!(error = said, pool = %self.name, "reconcile pass failed");
        metrics::round(self.name.as_str(), "blind");
        self.end_blindly().await;
        BLIND
    }
}

fn instances(presences: &[Presence]) -> HashSet<String> {
    let all = presences.iter();
    all.map(|presence| presence.instance.clone()).collect()
}

/// A line for what a person would want to have seen.
fn tell(before: &Batch, batch: &Batch) {
    if before.status != batch.status {
        let (batch, from, to) = (&batch.id, before.status.name(), batch.status.name());
        tracing::info!(%batch, from, to, "batch changed state");
    }
    let said = |batch: &Batch| {
        batch
            .blocked
            .as_ref()
            .map(|blocked| blocked.sentence.clone())
    };
    match (said(before), said(batch)) {
        (before, Some(sentence)) if before.as_ref() != Some(&sentence) => {
            tracing::warn!(batch = %batch.id, sentence, "launches blocked");
        }
        (Some(_), None) => tracing::info!(batch = %batch.id, "launches unblocked"),
        _ => {}
    }
}
