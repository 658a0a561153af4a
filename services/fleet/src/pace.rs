//! Correction of the cost model by finished tasks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bus::Recorded;
use spotreel_domain::Model;
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::render_time::{Corrections, Gpu, Run};
use spotreel_pool::marks::{self, Marks};
use tokio::time::Instant;

/// Finished tasks of a model on a card that correct the cost model: enough to be steady, few enough to follow a change.
const KEPT_RUNS: usize = 200;
/// Soon enough for tasks that take minutes, and rare enough for a log with many ends.
const EVERY: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Pace {
    /// Of this process's life; what they and those before them have said is kept by the server.
    runs: BTreeMap<(Model, Gpu), VecDeque<Run>>,
    /// As it was found there.
    found: Option<Corrections>,
    /// The last end that was learnt from.
    learnt_to: Option<(BatchId, LogPosition)>,
    looked: Option<Instant>,
}

/// Where an end stands in the log.
struct LogPosition {
    sequence: u64,
    stored_at: Timestamp,
}

impl Pace {
    pub fn learnt(&self) -> Corrections {
        let learnt = Corrections::learn(self.runs.values().flatten());
        match &self.found {
            Some(found) => learnt.over(found),
            None => learnt,
        }
    }

    /// Takes in what an earlier fleet has learnt, once.
    pub fn recall(&mut self, marks: &Marks, pool: &PoolName) {
        self.found.get_or_insert_with(|| marks.pace(pool));
    }

    /// From when on ends are to be looked at now, while this batch runs. None: it is too early.
    pub fn due(&mut self, batch: &Batch) -> Option<Timestamp> {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return None;
        }
        self.looked = Some(Instant::now());
        let last = self.learnt_to.as_ref().filter(|(of, _)| *of == batch.id);
        Some(last.map_or(batch.requested_at, |(_, place)| place.stored_at))
    }

    /// Writes down what there is to be learnt from the tasks that a batch has ended, each once.
    pub async fn learn(
        &mut self,
        client: &Client,
        pool: &PoolConfig,
        batch: &Batch,
        ended: &[Recorded],
    ) {
        let before = self.learnt();
        self.add(pool, batch, ended);
        let learnt = self.learnt();
        if learnt != before {
            let pool = &batch.id.pool;
            if let Err(error) = marks::put_pace(client, pool, &learnt).await {
                tracing::warn!(error = %spotreel_domain::chain(&error), %pool, "correction of the cost model could not be stored");
            }
        }
    }

    fn add(&mut self, pool: &PoolConfig, batch: &Batch, ended: &[Recorded]) {
        let last = self.learnt_to.as_ref().filter(|(of, _)| *of == batch.id);
        let learnt_to = last.map_or(0, |(_, place)| place.sequence);
        let mut new: Vec<_> = ended
            .iter()
            .filter(|end| end.sequence > learnt_to)
            .collect();
        new.sort_by_key(|end| end.sequence);
        if let Some(end) = new.last() {
            let place = LogPosition {
                sequence: end.sequence,
                stored_at: end.stored_at,
            };
            self.learnt_to = Some((batch.id.clone(), place));
        }
        let runs = new.into_iter().filter_map(|end| {
            let instance = &end.task.attempts.last()?.instance;
            let gpu = pool.gpu(&batch.instance(instance)?.place.kind)?;
            Run::of(&end.task, gpu)
        });
        for run in runs {
            let runs = self.runs.entry((run.job.model, run.gpu)).or_default();
            runs.push_back(run);
            if runs.len() > KEPT_RUNS {
                runs.pop_front();
            }
        }
    }
}
