//! The reconcile loop of a pool: lists the instances, reads the record, decides, writes, acts. Its state is in
//! [`pool`](crate::pool), what a pass reads in [`observe`], the effects in [`act`].
//!
//! Safety comes from this order. An instance that is listed and in no record has no owner, since the listing is older
//! than the record. Nothing is called before it is durable. A fleet that was overtaken loses at the write and calls
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use spotreel_bootstrap::ambient;
use spotreel_bus::RecordedBatch;
use spotreel_bus::controls::{self, HoldRecord};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::AppendError;
use spotreel_domain::batch::{Batch, DrainMode, Stop};
use spotreel_domain::fleet::reconcile::holds_its_pool;
use spotreel_domain::fleet::{idle_that_stay, reconcile};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::act;
use crate::error::RoundError;
use crate::observe::{self, Counted, Facts};
use crate::pool::{CAS_TRIES, Called, Pool};
use crate::{crash, metrics};

/// Delay before a pass that found nothing new is repeated: a message is delivered a moment before it can be read.
const SETTLE: Duration = Duration::from_millis(300);
/// After a pass that failed.
const BLIND: Duration = Duration::from_secs(2);
/// The checks of a pool that its passes set.
const CHECKS: [&str; 5] = ["queue", "workers", "marks", "spend", "launches"];
/// Time for which a batch that trigger requested from a newer pools file waits for a fleet that has this file.
const NEWER_FLEET: SignedDuration = SignedDuration::from_hours(1);
/// Time for a call that is under way at a stop; its answer spares the next fleet a repeated call.
const LAST_CALL: Duration = Duration::from_secs(15);

impl Pool {
    /// Makes passes while this fleet leads, until told to stop.
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
                    // The record may be out of date once it leads again, and the checks are the leader's.
                    self.known = None;
                    self.recover(&CHECKS);
                    tokio::select! {
                        () = self.fleet.leads() => look_at = Instant::now(),
                        () = stopping.cancelled() => break,
                    }
                    continue;
                }
                () = tokio::time::sleep_until(look_at) => {}
                () = self.waker.woken() => {
                    if !self.waker.has_news(self.known.as_ref().map(|known| &known.batch)) {
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
            let pause = match Box::pin(self.pass()).await {
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

    /// One reconcile pass; returns the time until the next.
    async fn pass(&mut self) -> Result<Duration, RoundError> {
        let fleet = Arc::clone(&self.fleet);
        let client = fleet.batches.client();
        let count = || async {
            tokio::join!(
                Counted::read(client, &fleet.pools, &fleet.samples),
                observe::marks(client)
            )
        };
        self.follow_pace().await;
        // The record may be read only after the listing, and after the message that woke this pass was stored: it is
        // delivered a moment before. The queue may be counted meanwhile.
        let cloud = Arc::clone(&self.cloud);
        for _ in 0..CAS_TRIES {
            let (counted, read) = tokio::join!(count(), async {
                let listed = cloud.list().await?;
                self.connected()?;
                // What this pass buys, the pass of another pool counts.
                let ledger = fleet.ledger.lock().await;
                Ok::<_, RoundError>((listed, ledger, self.read().await))
            });
            let (counted, marks) = counted;
            let (listed, mut ledger, (record, presences, others)) = read?;
            self.fleet.said_record(&record);
            let record = record?;
            self.note(record.as_ref());
            let facts = Facts {
                spent: self.spent(&mut ledger, record.as_ref(), &others).await,
                measured: ledger.seconds_per_task(&self.name),
                boot: ledger.boot(&self.name),
                marks: self.known_or_said("marks", marks),
                counted,
                presences,
            };
            if let Some(marks) = &facts.marks {
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
            let seen = self.observe(&record.batch, &listed, &policy, facts).await;
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

    /// A pass without an active batch.
    async fn rest(&self, ended: Option<&RecordedBatch>) -> Result<Duration, RoundError> {
        self.forget_refusal(ended.map(|record| &record.batch));
        // They are not needed while there is no batch.
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

    /// Writes the new state over the record that it was made from. False: another program wrote first.
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
                }
                self.wrote(record, batch, sequence);
                Ok(true)
            }
            Err(AppendError::Conflict(_)) => Ok(false),
            Err(error) => Err(RoundError::Append(Box::new(error))),
        }
    }

    /// Blocks launches for the pool until an operator resumes it or this configuration changes.
    async fn hold(&self, reason: String) -> Result<(), RoundError> {
        let client = self.fleet.batches.client();
        if controls::all(client).await?.holds.contains_key(&self.name) {
            return Ok(());
        }
        let hold = HoldRecord {
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
            // Another order has replaced it.
            Err(JetStreamError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing is launched; terminations that the record demands continue.
    async fn go_on_blind(&mut self, error: &RoundError) -> Duration {
        let said = spotreel_domain::chain(error);
        tracing::debug!(error = said, pool = %self.name, "reconcile pass failed");
        metrics::round(self.name.as_str(), "blind");
        self.end_blindly().await;
        BLIND
    }
}
