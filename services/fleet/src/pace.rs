//! How fast this pool renders: what its last batches took, and what finished tasks say of the cost model.

use std::collections::{BTreeMap, VecDeque};

use spotreel_bus::{BatchLog, Recorded};
use spotreel_domain::Model;
use spotreel_domain::batch::{Batch, BatchId};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::render_time::{Corrections, Gpu, Run};

use crate::observe;

/// Finished tasks that correct the cost model: enough to be steady, few enough to follow a change.
const KEPT_RUNS: usize = 200;

#[derive(Default)]
pub struct Pace {
    /// By the batches before this one, which do not change while it lasts.
    measured: Option<(BatchId, Option<f64>)>,
    /// Gone with this process: until there are new ones, the batch log or the bare cost model must do.
    runs: VecDeque<Run>,
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
        config.seconds_by_model(tasks, &Corrections::learn(&self.runs))
    }

    /// From the tasks that a batch has ended, once.
    pub fn learn(&mut self, batch: &Batch, ended: &[Recorded]) {
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
