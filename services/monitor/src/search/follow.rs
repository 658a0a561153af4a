//! Brings the rows up to the log, and notices when file and log do not belong together.

use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use serde::Deserialize;
use spotreel_bootstrap::{Context, Health, ambient};
use spotreel_bus::jetstream::{self, Start, Stored};
use spotreel_bus::names::{BATCHES, EVERY_SUBJECT, TASKS};
use spotreel_bus::unreadable::or_pass_over;
use spotreel_bus::{BatchLog, Recorded, RecordedBatch, TaskLog};
use spotreel_domain::batch::{Batch, BatchId};
use spotreel_projection::{LogMark, Projection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::removed::Removed;
use super::{CHECK, OLDEST_ANSWER, Progress, Search};
use crate::config::SearchConfig;
use crate::error::FollowError;
use crate::metrics;

const NAME: &str = "search";
/// Events of one page and one commit.
const PAGE: usize = 500;
/// An event of a batch may be a megabyte.
const BATCH_PAGE: usize = 8;
/// Ends of batches, which name all of their instances, with the names of their places in the file.
const BATCH_ENDS: [(&str, &str); 2] = [
    ("spotreel.batchlog.*.*.settled", "BATCHES settled"),
    ("spotreel.batchlog.*.*.failed", "BATCHES failed"),
];
/// Interval of the look at running batches, whose instances become more.
const BATCHES_EVERY: Duration = Duration::from_secs(5);
/// Pause after a failure: what failed may have thrown the file away, and the log is long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What the server says of a stream.
#[derive(Debug, Deserialize)]
struct LogInfo {
    /// When it was made: another stream of the same name has another time.
    created: String,
    state: LogState,
}

#[derive(Debug, Deserialize)]
struct LogState {
    last_seq: u64,
}

pub(super) struct Follower {
    client: Client,
    batches: BatchLog,
    projection: Projection,
    progress: Progress,
    removed: Removed,
    config: SearchConfig,
    health: Health,
    stopping: CancellationToken,
    /// The file's place in the log was compared with the log.
    is_compared: bool,
    /// The file's place in the log, as it was last.
    read_to: u64,
    batches_at: Option<Instant>,
    removed_at: Option<Instant>,
}

impl Follower {
    pub async fn new(
        client: &Client,
        search: &Search,
        config: &SearchConfig,
        ctx: &Context,
    ) -> Self {
        let (log, projection) = (TaskLog::open(client).await, search.projection.clone());
        Self {
            client: client.clone(),
            batches: BatchLog::open(client).await,
            removed: Removed::new(log, projection.clone()),
            projection,
            progress: search.progress.clone(),
            config: config.clone(),
            health: ctx.health.clone(),
            stopping: ctx.stopping.clone(),
            is_compared: false,
            read_to: 0,
            batches_at: None,
            removed_at: None,
        }
    }

    pub async fn run(mut self) {
        let stopping = self.stopping.clone();
        let mut failing = false;
        while let Some(done) = stopping.run_until_cancelled(self.pass()).await {
            let pause = match done {
                Ok(()) => {
                    failing = false;
                    self.health.set(CHECK, Ok::<(), &str>(()));
                    self.config.every
                }
                Err(error) => {
                    let text = spotreel_domain::chain(&error);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            error = text,
                            "search file does not follow the logs; retrying"
                        );
                    }
                    self.health.set(CHECK, Err(text));
                    RETRY_AFTER
                }
            };
            if stopping
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Reads everything that the logs have now.
    async fn pass(&mut self) -> Result<(), FollowError> {
        let due = |at: Option<Instant>, every| at.is_none_or(|at| at.elapsed() >= every);
        // Before the tasks: a batch log that was made anew throws the file away. But tasks are read, whatever comes of it.
        let mut batches = Ok(());
        if due(self.batches_at, BATCHES_EVERY) {
            self.batches_at = Some(Instant::now());
            batches = self.read_batches().await;
        }
        let now = ambient::now();
        self.read_tasks().await?;
        self.progress.set(Some(now), 0);
        metrics::search_behind(0);
        let size = self.projection.size().await?;
        metrics::search_size(size.tasks, size.bytes);
        if due(self.removed_at, self.config.removed_every) {
            self.removed.pass().await?;
            self.removed_at = Some(Instant::now());
        }
        batches
    }

    async fn read_tasks(&mut self) -> Result<(), FollowError> {
        let log: LogInfo = jetstream::stream_info(&self.client, TASKS).await?;
        let mut mark = self.mark(&log).await?;
        let began = mark.sequence;
        metrics::search_behind(log.state.last_seq.saturating_sub(began));
        loop {
            let start = Start::Sequence(mark.sequence + 1);
            let page = jetstream::page(&self.client, TASKS, EVERY_SUBJECT, start, PAGE).await?;
            let Some(newest) = page.last() else { break };
            let next = mark_of(newest);
            let mut states = Vec::with_capacity(page.len());
            let mut newer = None;
            for stored in page {
                let (sequence, before) = (stored.sequence, mark);
                mark = mark_of(&stored);
                match Recorded::from_stored(stored) {
                    Ok(Some(recorded)) => states.push((sequence, recorded.task)),
                    Ok(None) => metrics::unreadable(NAME),
                    Err(error) => {
                        (mark, newer) = (before, Some(error));
                        break;
                    }
                }
            }
            self.projection.apply_tasks(TASKS, states, mark).await?;
            if let Some(error) = newer {
                return Err(FollowError::Newer(error));
            }
            debug_assert_eq!(mark, next);
            self.read_to = mark.sequence;
            self.tell(log.state.last_seq.saturating_sub(mark.sequence), mark);
        }
        let read = mark.sequence - began;
        if read > PAGE as u64 * 20 {
            tracing::info!(read, "search file is up to the task log again");
        }
        Ok(())
    }

    /// The file's place in this log. One of another log, or of a log that had more than this one, is thrown away.
    async fn mark(&mut self, log: &LogInfo) -> Result<LogMark, FollowError> {
        let mark = self.projection.mark(TASKS, log.created.clone()).await?;
        // The file was thrown away since, for another log or because it was damaged.
        if mark.sequence < self.read_to {
            self.forget();
        }
        let is_past_the_end = mark.sequence > log.state.last_seq;
        let is_other = !is_past_the_end && !self.is_compared && self.differs(mark).await?;
        self.is_compared = true;
        if !is_past_the_end && !is_other {
            return Ok(mark);
        }
        let reason = match is_past_the_end {
            true => "it was read further than the task log goes: the log is older than the file",
            false => "the task log has another event at the file's place: it was written anew",
        };
        self.projection.anew(reason.to_owned()).await?;
        self.forget();
        Ok(self.projection.mark(TASKS, log.created.clone()).await?)
    }

    fn forget(&mut self) {
        self.progress.forget();
        self.read_to = 0;
    }

    /// Whether the log has another event where the file was read to. That event may have been deleted since.
    async fn differs(&self, mark: LogMark) -> Result<bool, FollowError> {
        if mark.sequence == 0 {
            return Ok(false);
        }
        let start = Start::Sequence(mark.sequence);
        let page = jetstream::page(&self.client, TASKS, EVERY_SUBJECT, start, 1).await?;
        let at_mark = page.first().map(mark_of);
        Ok(at_mark.is_some_and(|found| {
            found.sequence == mark.sequence && found.stored_ns != mark.stored_ns
        }))
    }

    fn tell(&self, behind: u64, mark: LogMark) {
        let as_of = Timestamp::from_nanosecond(mark.stored_ns.into()).ok();
        let as_of = as_of.filter(|_| mark.sequence > 0);
        self.progress.set(as_of, behind);
        metrics::search_behind(behind);
        if self.progress.whole_at(ambient::now()).is_err() {
            let most = OLDEST_ANSWER.as_secs();
            self.health.set(
                CHECK,
                Err(format!(
                    "{behind} events of the task log are still to be read; searches are refused while more than {most} s are missing"
                )),
            );
        }
    }

    async fn read_batches(&self) -> Result<(), FollowError> {
        let log: LogInfo = jetstream::stream_info(&self.client, BATCHES).await?;
        for (filter, name) in BATCH_ENDS {
            let mut mark = self.projection.mark(name, log.created.clone()).await?;
            loop {
                let start = Start::Sequence(mark.sequence + 1);
                let page =
                    jetstream::page(&self.client, BATCHES, filter, start, BATCH_PAGE).await?;
                let Some(newest) = page.last() else { break };
                mark = mark_of(newest);
                let mut ends = Vec::new();
                for stored in page {
                    match RecordedBatch::from_stored(stored)? {
                        Some(end) => ends.push(machines(&end.batch)),
                        None => metrics::unreadable(NAME),
                    }
                }
                self.projection
                    .apply_batches(ends, Some((name, mark)))
                    .await?;
            }
        }
        for pool in self.batches.pools().await? {
            let newest = or_pass_over(BATCHES, self.batches.last(&pool).await)?;
            if let Some(newest) = newest.flatten() {
                let running = vec![machines(&newest.batch)];
                self.projection.apply_batches(running, None).await?;
            }
        }
        Ok(())
    }
}

/// Its instances.
fn machines(batch: &Batch) -> (BatchId, Vec<String>) {
    let instances = batch.instances.iter().map(|one| one.id.clone());
    (batch.id.clone(), instances.collect())
}

fn mark_of(stored: &Stored) -> LogMark {
    LogMark {
        sequence: stored.sequence,
        // Until the year 2262.
        stored_ns: i64::try_from(stored.stored_at.as_nanosecond()).unwrap_or(i64::MAX),
    }
}
