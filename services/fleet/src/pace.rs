//! How fast this pool renders: what its last batches took, and what finished tasks say of the cost model.

use std::collections::{BTreeMap, VecDeque};

use async_nats::Client;
use spotreel_bus::{BatchLog, Recorded, kv, names};
use spotreel_domain::Model;
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::render_time::{Corrections, Gpu, Run};

use crate::observe;

/// Finished tasks that correct the cost model: enough to be steady, few enough to follow a change.
const KEPT_RUNS: usize = 200;

#[derive(Default)]
pub struct Pace {
    /// By the batches before this one, which do not change while it lasts.
    measured: Option<(BatchId, Option<f64>)>,
    /// Of this process's life; what they and those before them have said is kept by the server.
    runs: VecDeque<Run>,
    /// As it was found there.
    found: Option<Corrections>,
    learnt_from: Option<BatchId>,
}

impl Pace {
    pub async fn measured(&mut self, log: &BatchLog, batch: &BatchId) -> Option<f64> {
        if let Some((of, measured)) = &self.measured
            && of == batch
        {
            return *measured;
        }
        match observe::measured(log, &batch.pool).await {
            Ok(measured) => {
                self.measured = Some((batch.clone(), measured));
                measured
            }
            Err(error) => {
                tracing::warn!(%error, %batch, "how fast tasks were rendered cannot be read; the cost model must do");
                None
            }
        }
    }

    pub fn modelled(&self, config: &PoolConfig, tasks: &BTreeMap<Model, u64>) -> Option<f64> {
        config.seconds_by_model(tasks, &self.learnt())
    }

    fn learnt(&self) -> Corrections {
        let learnt = Corrections::learn(&self.runs);
        match &self.found {
            Some(found) => learnt.over(found),
            None => learnt,
        }
    }

    /// What an earlier fleet has learnt, as soon as that can be read.
    pub async fn recall(&mut self, client: &Client, pool: &PoolName) {
        if self.found.is_none() {
            match kv::pace(client, pool).await {
                Ok(found) => self.found = Some(found),
                Err(error) => tracing::debug!(%error, %pool, "what was learnt cannot be read"),
            }
        }
    }

    /// Writes down what there is to be learnt from the tasks that a batch has ended, once.
    pub async fn learn(&mut self, client: &Client, batch: &Batch, ended: &[Recorded]) {
        let pool = &batch.id.pool;
        self.recall(client, pool).await;
        let before = self.learnt();
        self.add(batch, ended);
        let learnt = self.learnt();
        if learnt != before {
            let said = serde_json::json!(learnt);
            if let Err(error) = kv::put_mark(client, &names::pace_mark(pool), &said).await {
                tracing::warn!(%error, %pool, "what was learnt of the cost model is not kept");
            }
        }
    }

    fn add(&mut self, batch: &Batch, ended: &[Recorded]) {
        if self.learnt_from.as_ref() == Some(&batch.id) {
            return;
        }
        self.learnt_from = Some(batch.id.clone());
        let runs = ended.iter().filter_map(|end| {
            let instance = &end.task.attempts.last()?.instance;
            let gpu = Gpu::of_instance_type(&batch.instance(instance)?.place.kind)?;
            Run::of(&end.task, gpu)
        });
        self.runs.extend(runs);
        let surplus = self.runs.len().saturating_sub(KEPT_RUNS);
        self.runs.drain(..surplus);
    }
}
