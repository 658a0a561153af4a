//! What the tasks of the queues are. A queue may be long, so some of its tasks are looked at, and again after a while: the
//! first ones, which workers have or take next, and others all over the rest ([`spread`]).

mod spread;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Client;
use parking_lot::{Mutex, MutexGuard};
use spotreel_domain::workload::Sampled;
use spotreel_domain::{Lane, Model};
use spotreel_proto::worker::v1::Presence;
use tokio::time::Instant;

use crate::queue::{QueueCounts, Queues};
use spread::SampledTask;

/// A long queue changes slowly, and costs up to some tenths of a second to read.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// A queue that is known as a whole is read again so soon after it has changed.
const SHORT_GOOD_FOR: Duration = Duration::from_secs(5);

/// What is kept of each queue.
#[derive(Default)]
pub struct Samples(Mutex<BTreeMap<(Model, Lane), QueueSample>>);

struct QueueSample {
    at: Instant,
    length: u64,
    tasks: Vec<SampledTask>,
}

/// Some tasks of each model.
#[derive(Clone, Debug, Default)]
pub struct Looked(BTreeMap<Model, Vec<SampledTask>>);

impl Samples {
    /// Of each queue that is not empty. One that cannot be read now is left out: of its tasks the model is known.
    pub async fn read(&self, client: &Client, queues: &Queues) -> Looked {
        let mut looked = Looked::default();
        for (key, queue) in queues.lanes() {
            if queue.length() == 0 {
                self.lock().remove(key);
                continue;
            }
            if !self.is_fresh(key, queue) {
                match spread::read(client, *key, queue.acked_to).await {
                    Ok(tasks) => self.keep(*key, queue, tasks),
                    Err(error) => {
                        tracing::debug!(error = %spotreel_domain::chain(&error), ?key, "tasks of the queue cannot be read");
                    }
                }
            }
            if let Some(kept) = self.lock().get(key) {
                let of_model = looked.0.entry(key.0).or_default();
                of_model.extend_from_slice(&kept.tasks);
            }
        }
        looked
    }

    fn is_fresh(&self, key: &(Model, Lane), queue: &QueueCounts) -> bool {
        let kept = self.lock();
        let Some(kept) = kept.get(key) else {
            return false;
        };
        let is_short = kept.tasks.len() < spread::FIRST;
        match is_short && kept.length != queue.length() {
            true => kept.at.elapsed() < SHORT_GOOD_FOR,
            false => kept.at.elapsed() < GOOD_FOR,
        }
    }

    fn keep(&self, key: (Model, Lane), queue: &QueueCounts, tasks: Vec<SampledTask>) {
        let kept = QueueSample {
            at: Instant::now(),
            length: queue.length(),
            tasks,
        };
        self.lock().insert(key, kept);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Model, Lane), QueueSample>> {
        self.0.lock()
    }
}

impl Looked {
    pub fn sampled(&self, workers: &[Presence]) -> BTreeMap<Model, Vec<Sampled>> {
        let in_hand: BTreeSet<&str> = workers.iter().map(|w| w.task.as_str()).collect();
        let sampled = |task: &SampledTask| Sampled {
            job: task.job,
            in_hand: in_hand.contains(task.id.as_str()),
            stands_for: task.stands_for,
        };
        let models = self.0.iter();
        models
            .map(|(model, tasks)| (*model, tasks.iter().map(sampled).collect()))
            .collect()
    }
}
