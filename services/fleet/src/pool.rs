//! The state of one pool's loop: the record as it was last read, the call under way, and the checks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use spotreel_bus::RecordedBatch;
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use spotreel_domain::fleet::Policy;
use spotreel_domain::fleet::cloud::LaunchAnswer;
use spotreel_domain::pool::PoolConfig;
use spotreel_ec2::LaunchError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cloud::Cloud;
use crate::error::RoundError;
use crate::fleet::Fleet;
use crate::metrics;
use crate::pace::Pace;
use crate::wake::Waker;

/// Maximum number of lost compare-and-set races in a row; more is no coincidence.
pub const CAS_TRIES: usize = 16;
/// Between two calls of a launch without an answer.
const FIRST_REPLAY: Duration = Duration::from_secs(1);
const LONGEST_REPLAY: Duration = Duration::from_secs(60);

pub struct Pool {
    pub fleet: Arc<Fleet>,
    pub cloud: Arc<Cloud>,
    pub name: PoolName,
    pub config: PoolConfig,
    /// As configured; each pass leaves out what the cloud does not have.
    pub policy: Policy,
    pub waker: Arc<Waker>,
    pub called_sender: mpsc::Sender<Called>,
    /// The record as it was last read or written here.
    pub known: Option<RecordedBatch>,
    /// The launch whose call is under way.
    pub in_flight: Option<u32>,
    pub replay: Replay,
    /// The instances whose workers had a presence record in the last pass.
    pub present: Option<HashSet<String>>,
    /// Terminations that were called while the record could not be written.
    pub asked_blindly: HashMap<String, Instant>,
    /// Why its batch has to end, if the configuration buys nothing for this pool.
    pub ends_for: Option<String>,
    pub pace: Pace,
}

/// A CreateFleet call that has ended.
pub struct Called {
    pub batch: BatchId,
    pub seq: u32,
    pub result: Result<LaunchAnswer, LaunchError>,
    /// By the record, the call can have been made only once.
    pub first: bool,
}

/// When a launch without an answer may be sent again.
#[derive(Default)]
pub struct Replay {
    of: Option<(BatchId, u32)>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Replay {
    pub fn put_off(&mut self, of: (BatchId, u32)) {
        let again = self.of.as_ref() == Some(&of);
        self.pause = match again {
            true => (self.pause * 2).min(LONGEST_REPLAY),
            false => FIRST_REPLAY,
        };
        self.of = Some(of);
        self.not_before = Some(Instant::now() + self.pause);
    }

    pub fn must_wait(&self, of: &(BatchId, u32)) -> bool {
        let same = self.of.as_ref() == Some(of);
        same && self.not_before.is_some_and(|at| Instant::now() < at)
    }
}

impl Pool {
    pub fn new(
        fleet: Arc<Fleet>,
        cloud: Arc<Cloud>,
        config: PoolConfig,
        policy: Policy,
        waker: Arc<Waker>,
    ) -> (Self, mpsc::Receiver<Called>) {
        let (called_sender, called) = mpsc::channel(1);
        let pool = Self {
            fleet,
            cloud,
            name: policy.pool.clone(),
            config,
            policy,
            waker,
            called_sender,
            known: None,
            in_flight: None,
            replay: Replay::default(),
            present: None,
            asked_blindly: HashMap::new(),
            ends_for: None,
            pace: Pace::default(),
        };
        (pool, called)
    }

    /// Stops its batch at once; none is expected after it.
    pub fn ends_for(self, reason: String) -> Self {
        Self {
            ends_for: Some(reason),
            ..self
        }
    }

    /// Takes over a record that was written here.
    pub fn wrote(&mut self, before: &RecordedBatch, batch: &Batch, sequence: u64) {
        tell(&before.batch, batch);
        metrics::batch(&before.batch, batch, batch.at);
        self.known = Some(RecordedBatch {
            sequence,
            batch: batch.clone(),
            ..before.clone()
        });
    }

    /// Takes over a record as it was read.
    pub fn note(&mut self, record: Option<&RecordedBatch>) {
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

    pub fn recover(&self, checks: &[&str]) {
        for what in checks {
            let check = format!("pool {} {what}", self.name);
            self.fleet.conditions.recover(&check);
        }
    }

    /// The fact, if it could be read; sets its check.
    pub fn known_or_said<T, E: ToString>(&self, what: &str, read: Result<T, E>) -> Option<T> {
        let check = format!("pool {} {what}", self.name);
        let said = read.as_ref().map(drop).map_err(ToString::to_string);
        self.fleet.conditions.set(&check, said);
        read.ok()
    }
}

/// Logs the changes that an operator searches for.
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
