//! Group commit: submissions that arrive together are written together, with one wait for the disk.
//!
//! Nothing lingers: a batch is what lies there when a place is free, so that a lone task goes at once and batches
//! grow by themselves under load. Two events of one task never share a batch (the server would store both).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::Append;
use spotreel_bus::{AppendError, TaskLog};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::config::CommitConfig;
use crate::metrics;

/// Appends that wait for a place in a batch; one full call fits.
const WAITING: usize = 10_000;
/// What one batch weighs at most, by the texts in it: a batch of the longest prompts stays a matter of milliseconds.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Appends under way at once when a batch's fate is unknown and each is settled alone.
const SINGLES: usize = 64;
/// How long intake is not ready after a write that the log did not take: longer than the next one takes to fail. Without
/// an end, an intake that is not ready would be asked for nothing and never learn that the log takes writes again.
const DOUBTED_FOR: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Committer {
    jobs: mpsc::Sender<Job>,
    writes: Writes,
}

/// When the log last failed to take a write, unless it has taken one since. A server whose disk is full answers every
/// question as if all were well; only writes tell.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Option<Instant>>>);

struct Job {
    append: Append,
    done: oneshot::Sender<Result<u64, AppendError>>,
}

impl Committer {
    /// The committer, and the loop that it needs: it ends when the last committer is gone and all is written.
    pub fn new(log: TaskLog, config: &CommitConfig) -> (Self, impl Future<Output = ()> + use<>) {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let writes = Writes::default();
        let committer = Self {
            jobs,
            writes: writes.clone(),
        };
        (committer, gather(log, waiting, config.clone(), writes))
    }

    /// Whether the log takes what is written to it, as far as the last writes tell.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.writes.failed_within(DOUBTED_FOR) {
            true => Err("the task log did not take the last write: is the disk under NATS full?"),
            false => Ok(()),
        }
    }

    /// Writes one task's event. None: the program is ending, or the write was cut off.
    pub async fn commit(&self, append: Append) -> Option<Result<u64, AppendError>> {
        let (done, outcome) = oneshot::channel();
        self.jobs.send(Job { append, done }).await.ok()?;
        outcome.await.ok()
    }
}

async fn gather(
    log: TaskLog,
    mut waiting: mpsc::Receiver<Job>,
    config: CommitConfig,
    writes: Writes,
) {
    let places = Arc::new(Semaphore::new(config.in_flight));
    let mut postponed = VecDeque::new();
    loop {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let first = match postponed.pop_front() {
            Some(job) => job,
            None => match waiting.recv().await {
                Some(job) => job,
                None => break,
            },
        };
        let batch = fill(first, &mut waiting, &mut postponed, config.largest_batch);
        tokio::spawn(write(log.clone(), batch, writes.clone(), place));
    }
    // Every place free: everything is written.
    let all = u32::try_from(config.in_flight).unwrap_or(u32::MAX);
    let _ = places.acquire_many(all).await;
}

/// The first, and what is there already, up to the limits. Whoever shares an id with one of them goes next time.
fn fill(
    first: Job,
    waiting: &mut mpsc::Receiver<Job>,
    postponed: &mut VecDeque<Job>,
    largest: usize,
) -> Vec<Job> {
    let mut ids = HashSet::from([first.append.task.id.clone()]);
    let mut bytes = weight(&first.append);
    let mut batch = vec![first];
    let mut twins = VecDeque::new();
    while batch.len() < largest && bytes < MAX_BATCH_BYTES {
        let Some(job) = postponed.pop_front().or_else(|| waiting.try_recv().ok()) else {
            break;
        };
        if ids.insert(job.append.task.id.clone()) {
            bytes += weight(&job.append);
            batch.push(job);
        } else {
            twins.push_back(job);
        }
        if twins.len() >= WAITING {
            break;
        }
    }
    twins.append(postponed);
    *postponed = twins;
    batch
}

fn weight(append: &Append) -> usize {
    let spec = &append.task.spec;
    let labels: usize = spec
        .labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let texts = [&spec.negative_prompt, &spec.callback_url]
        .into_iter()
        .flatten();
    spec.prompt.len() + texts.map(String::len).sum::<usize>() + labels
}

impl Writes {
    fn note<T>(&self, outcome: &Result<T, AppendError>) {
        match outcome {
            Ok(_) => self.set(None),
            Err(AppendError::Unavailable(_)) => self.set(Some(Instant::now())),
            // The log refused the write itself, and could have taken another.
            Err(_) => {}
        }
    }

    fn set(&self, failed: Option<Instant>) {
        *self.0.lock() = failed;
    }

    fn failed_within(&self, time: Duration) -> bool {
        let failed = self.0.lock();
        failed.is_some_and(|at| at.elapsed() < time)
    }
}

/// Appends that stand or fall together.
struct Open {
    jobs: Vec<Job>,
    /// The ids that were taken have been set aside.
    sorted: bool,
}

/// Writes a batch. Of a refused one those whose ids are taken are set aside; should it be refused again, it is halved until
/// the culprit stands alone.
async fn write(log: TaskLog, batch: Vec<Job>, writes: Writes, _place: OwnedSemaphorePermit) {
    let began = Instant::now();
    let tasks = batch.len();
    let mut open = vec![Open {
        jobs: batch,
        sorted: false,
    }];
    while let Some(Open { mut jobs, sorted }) = open.pop() {
        let appends: Vec<&Append> = jobs.iter().map(|job| &job.append).collect();
        let written = match appends.as_slice() {
            [] => continue,
            [append] => {
                let outcome = log.append(append).await;
                writes.note(&outcome);
                answer(jobs, [outcome]);
                continue;
            }
            appends => log.append_batch(appends, ambient::uuid_v4()).await,
        };
        match written {
            Ok(sequences) => {
                writes.set(None);
                answer(jobs, sequences.into_iter().map(Ok));
            }
            Err(JetStreamError::Full) => {
                answer(jobs, std::iter::repeat_with(|| Err(AppendError::Full)));
            }
            Err(JetStreamError::Conflict) if !sorted => {
                let jobs = set_aside(&log, jobs).await;
                open.push(Open { jobs, sorted: true });
            }
            Err(JetStreamError::Conflict) => {
                let right = jobs.split_off(jobs.len() / 2);
                open.extend([right, jobs].map(|jobs| Open { jobs, sorted }));
            }
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), tasks = jobs.len(), "group write got no answer; checking each task");
                writes.set(Some(Instant::now()));
                let each: Vec<_> = appends.iter().map(|append| log.append(append)).collect();
                let outcomes: Vec<_> = futures::stream::iter(each)
                    .buffered(SINGLES)
                    .inspect(|outcome| writes.note(outcome))
                    .collect()
                    .await;
                answer(jobs, outcomes);
            }
        }
    }
    metrics::committed(tasks, began.elapsed());
}

/// Answers those whose ids are taken, and gives back the others. One that could not be looked up is among them.
async fn set_aside(log: &TaskLog, jobs: Vec<Job>) -> Vec<Job> {
    let looks: Vec<_> = jobs
        .iter()
        .map(|job| log.last(&job.append.task.id))
        .collect();
    let looks = futures::stream::iter(looks).buffered(SINGLES);
    let first: Vec<_> = looks.map(|look| look.ok().flatten()).collect().await;
    let mut new = Vec::new();
    for (job, first) in jobs.into_iter().zip(first) {
        match first {
            Some(first) => answer(
                vec![job],
                [Err(AppendError::Conflict(Some(Box::new(first))))],
            ),
            None => new.push(job),
        }
    }
    new
}

fn answer(jobs: Vec<Job>, outcomes: impl IntoIterator<Item = Result<u64, AppendError>>) {
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        // Whoever asked may be gone; the task stays accepted.
        let _ = job.done.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_doubted_after_a_write_that_it_did_not_take_and_until_it_takes_one() {
        let writes = Writes::default();
        let is_doubted = || writes.failed_within(DOUBTED_FOR);
        assert!(!is_doubted());
        let unanswered = JetStreamError::Unknown("spotreel.log.t.queued.m.1".into());
        let unavailable = AppendError::Unavailable(unanswered.into());
        writes.note::<u64>(&Err(unavailable));
        assert!(is_doubted());
        writes.note::<u64>(&Err(AppendError::Conflict(None)));
        assert!(is_doubted(), "the server compares before it stores");
        assert!(!writes.failed_within(Duration::ZERO), "not for ever");
        writes.note(&Ok(1));
        assert!(!is_doubted());
    }
}
