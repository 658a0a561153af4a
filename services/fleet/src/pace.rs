//! What finished tasks say of the cost model.

use std::collections::{BTreeMap, VecDeque};

use async_nats::Client;
use spotreel_bus::Recorded;
use spotreel_domain::Model;
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::render_time::{Corrections, Gpu, Run};
use spotreel_pool::marks::{self, Marks};

/// Finished tasks that correct the cost model: enough to be steady, few enough to follow a change.
const KEPT_RUNS: usize = 200;

#[derive(Default)]
pub struct Pace {
    /// Of this process's life; what they and those before them have said is kept by the server.
    runs: VecDeque<Run>,
    /// As it was found there.
    found: Option<Corrections>,
    learnt_from: Option<BatchId>,
}

impl Pace {
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

    /// Takes in what an earlier fleet has learnt, once.
    pub fn recall(&mut self, marks: &Marks, pool: &PoolName) {
        self.found.get_or_insert_with(|| marks.pace(pool));
    }

    /// Writes down what there is to be learnt from the tasks that a batch has ended, once.
    pub async fn learn(&mut self, client: &Client, batch: &Batch, ended: &[Recorded]) {
        let pool = &batch.id.pool;
        let before = self.learnt();
        self.add(batch, ended);
        let learnt = self.learnt();
        if learnt != before {
            if let Err(error) = marks::put_pace(client, pool, &learnt).await {
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
