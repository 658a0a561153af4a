//! What the tasks of the queues are. A queue may be long, so its first tasks are looked at, and again after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Client;
use parking_lot::{Mutex, MutexGuard};
use spotreel_bus::jetstream;
use spotreel_bus::log::{ReadError, Recorded};
use spotreel_bus::names::{self, TASKS};
use spotreel_domain::render_time::Job;
use spotreel_domain::workload::Sampled;
use spotreel_domain::{Lane, Model, TaskId};
use spotreel_proto::worker::v1::Presence;
use tokio::time::Instant;

use crate::queue::{Queue, Queues};

/// Tasks of one queue that are looked at: some megabytes at their largest, and more than a pool renders at once.
const LOOKED_AT: usize = 128;
/// To find an entry by its subject costs a tenth of a second with a million tasks in the log ([`oldest`](crate::oldest)),
/// so it is done seldom.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// A queue that is known as a whole is read again so soon after it has changed.
const SHORT_GOOD_FOR: Duration = Duration::from_secs(5);

/// What is kept of each queue.
#[derive(Default)]
pub struct Samples(Mutex<BTreeMap<(Model, Lane), Kept>>);

struct Kept {
    at: Instant,
    length: u64,
    tasks: Vec<(TaskId, Job)>,
}

/// Some tasks of each model.
#[derive(Clone, Debug, Default)]
pub struct Looked(BTreeMap<Model, Vec<(TaskId, Job)>>);

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
                match first(client, *key, queue.acked_to).await {
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

    fn is_fresh(&self, key: &(Model, Lane), queue: &Queue) -> bool {
        let kept = self.lock();
        let Some(kept) = kept.get(key) else {
            return false;
        };
        let is_short = kept.tasks.len() < LOOKED_AT;
        match is_short && kept.length != queue.length() {
            true => kept.at.elapsed() < SHORT_GOOD_FOR,
            false => kept.at.elapsed() < GOOD_FOR,
        }
    }

    fn keep(&self, key: (Model, Lane), queue: &Queue, tasks: Vec<(TaskId, Job)>) {
        let kept = Kept {
            at: Instant::now(),
            length: queue.length(),
            tasks,
        };
        self.lock().insert(key, kept);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Model, Lane), Kept>> {
        self.0.lock()
    }
}

/// The first entries behind those that were acknowledged.
async fn first(
    client: &Client,
    (model, lane): (Model, Lane),
    acked_to: u64,
) -> Result<Vec<(TaskId, Job)>, ReadError> {
    let query = serde_json::json!({
        "batch": LOOKED_AT, "seq": acked_to + 1, "next_by_subj": names::work_filter(model, lane),
    });
    let page = jetstream::direct_get(client, TASKS, &query).await?;
    let read = page.into_iter().map(|stored| {
        let recorded = Recorded::from_parts(
            &stored.subject,
            stored.sequence,
            &stored.payload,
            stored.headers,
            stored.stored_at.as_nanosecond(),
        )?;
        Ok((recorded.task.id, Job::of(&recorded.task.spec)))
    });
    read.collect()
}

impl Looked {
    pub fn sampled(&self, workers: &[Presence]) -> BTreeMap<Model, Vec<Sampled>> {
        let in_hand: BTreeSet<&str> = workers.iter().map(|w| w.task.as_str()).collect();
        let sampled = |(id, job): &(TaskId, Job)| Sampled {
            job: *job,
            in_hand: in_hand.contains(id.as_str()),
        };
        let models = self.0.iter();
        models
            .map(|(model, tasks)| (*model, tasks.iter().map(sampled).collect()))
            .collect()
    }
}
