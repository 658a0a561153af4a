//! Limits for new tasks: a rate, a queue length, and room in the log.
//!
//! Counts come from the server and are a poll old; what was let in since is added, so that a flood between two polls
//! is held too.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use spotreel_api::{ApiError, QueueLength, QueueView};
use spotreel_bus::TaskLog;
use spotreel_bus::names::{CONSUMER_INTAKE, INBOX, TASKS, work_consumer};
use spotreel_domain::{Lane, Model, Owner};

use crate::config::LimitsConfig;
use crate::submit::owners::{Held, Owners};
use crate::{error, metrics};

/// Queues move in minutes: coming back sooner is of no use.
const QUEUE_RETRY: Duration = Duration::from_secs(30);
/// Room comes back when the janitor has passed.
const ROOM_RETRY: Duration = Duration::from_secs(60);

pub struct QueueLimits {
    config: LimitsConfig,
    rate: DefaultDirectRateLimiter,
    clock: DefaultClock,
    owners: Owners,
    tasks: Stream<()>,
    inbox: Stream<()>,
    queues: Mutex<Vec<QueueLength>>,
    queued: AtomicU64,
    let_in: AtomicU64,
    bytes: AtomicU64,
    /// 0: the stream has no limit.
    max_bytes: AtomicU64,
}

impl QueueLimits {
    pub async fn new(client: &Client, config: LimitsConfig) -> Self {
        let context = async_nats::jetstream::new(client.clone());
        let tasks = context
            .get_stream_no_info(TASKS)
            .await
            .expect("TASKS is a valid stream name");
        let inbox = context
            .get_stream_no_info(INBOX)
            .await
            .expect("INBOX is a valid stream name");
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(config.tasks_per_second))
            .allow_burst(at_least_one(config.burst));
        Self {
            rate: RateLimiter::direct(quota),
            clock: DefaultClock::default(),
            owners: Owners::new(TaskLog::open(client).await),
            tasks,
            inbox,
            queues: Mutex::default(),
            queued: AtomicU64::new(0),
            let_in: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_bytes: AtomicU64::new(0),
            config,
        }
    }

    /// Whether this number of tasks may be submitted now: all or none.
    pub fn pace(&self, tasks: usize) -> Result<(), ApiError> {
        let Some(tasks) = u32::try_from(tasks).ok().and_then(NonZeroU32::new) else {
            return Ok(());
        };
        match self.rate.check_n(tasks) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => {
                let rate = self.config.tasks_per_second;
                let message =
                    format!("more than {rate} tasks a second arrive: send this call again later");
                Err(error::rate_limited(
                    message,
                    not_yet.wait_time_from(self.clock.now()),
                ))
            }
            Err(_) => {
                let message = format!(
                    "one call takes at most {} tasks: send them in several",
                    self.config.burst
                );
                Err(error::too_large(message))
            }
        }
    }

    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Is there room for one more task in the queue and in the log, and in this owner's part of them? The answer says whether the
    /// task waits in the back lane, because its owner has several unfinished ones already. Tasks without an owner can't be told
    /// apart, and count as one more owner's.
    pub fn admit(&self, owner: Option<&Owner>) -> Result<bool, ApiError> {
        let (bytes, max_bytes) = (
            self.bytes.load(Ordering::Relaxed),
            self.max_bytes.load(Ordering::Relaxed),
        );
        if max_bytes > 0 && bytes >= max_bytes / 100 * self.config.log_room_percent {
            let message = format!(
                "the task log has used {} % of its room, the rest is for tasks that were accepted: send it again later",
                self.config.log_room_percent
            );
            return Err(error::queue_full(message, ROOM_RETRY));
        }
        let queued = self.queued.load(Ordering::Relaxed) + self.let_in.load(Ordering::Relaxed);
        if queued >= self.config.max_queued {
            let message = format!(
                "{queued} tasks are queued, and no more than {} may be: send it again later",
                self.config.max_queued
            );
            return Err(error::queue_full(message, QUEUE_RETRY));
        }
        let before = match owner {
            Some(owner) => {
                let may = |held| self.admit_owner(owner, held, max_bytes);
                self.owners.admit(owner, may)?.tasks
            }
            None => queued.saturating_sub(self.owners.tasks()),
        };
        self.let_in.fetch_add(1, Ordering::Relaxed);
        Ok(before >= self.config.front_per_owner)
    }

    fn admit_owner(&self, owner: &Owner, held: Held, max_bytes: u64) -> Result<(), ApiError> {
        let most = self.config.max_queued_per_owner;
        if held.tasks >= most {
            let message = format!(
                "owner {owner} has {} tasks that have not ended, and one owner may not have more than {most}: send it again later",
                held.tasks
            );
            return Err(error::rate_limited(message, QUEUE_RETRY));
        }
        let percent = self.config.owner_log_percent;
        if max_bytes > 0 && held.bytes >= max_bytes / 100 * percent {
            let message = format!(
                "the tasks of owner {owner} have used {percent} % of the task log's room, and one owner may not use more: send it again when older ones have been removed"
            );
            return Err(error::rate_limited(message, ROOM_RETRY));
        }
        Ok(())
    }

    /// The queues as they were at the last poll, and what each owner has in them.
    pub fn queue(&self) -> QueueView {
        let mut owners = self.owners.counts();
        owners.sort_by(|a, b| (b.tasks, &a.owner).cmp(&(a.tasks, &b.owner)));
        QueueView {
            queues: self.queues.lock().clone(),
            owners,
        }
    }

    pub fn poll_every(&self) -> Duration {
        self.config.poll
    }

    /// Reads the counts anew. An error names what is missing or silent.
    pub async fn poll(&self) -> Result<(), String> {
        let let_in_before = self.let_in.load(Ordering::Relaxed);
        let missing = |what: &str, error: &dyn std::fmt::Display| {
            format!("{what} is missing or does not answer ({error}): has `spotreel provision` run?")
        };
        let info = self
            .tasks
            .get_info()
            .await
            .map_err(|error| missing("stream TASKS", &error))?;
        let all = Model::ALL
            .into_iter()
            .flat_map(|model| Lane::ALL.map(|lane| (model, lane)));
        let counts = futures::future::join_all(all.map(|(model, lane)| async move {
            let name = work_consumer(model, lane);
            let info = self.tasks.consumer_info(&name).await;
            let info = info.map_err(|error| missing(&format!("consumer TASKS/{name}"), &error))?;
            Ok(QueueLength {
                model,
                priority: lane.priority,
                waiting: info.num_pending,
                taken: info.num_ack_pending as u64,
            })
        }));
        let lanes: Vec<_> = counts.await.into_iter().collect::<Result<_, String>>()?;
        let queued = lanes.iter().map(|lane| lane.waiting + lane.taken).sum();
        self.inbox
            .consumer_info(CONSUMER_INTAKE)
            .await
            .map_err(|error| missing("consumer INBOX/intake", &error))?;
        let max_bytes = u64::try_from(info.config.max_bytes).unwrap_or_default();
        self.bytes.store(info.state.bytes, Ordering::Relaxed);
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        *self.queues.lock() = by_priority(&lanes);
        self.queued.store(queued, Ordering::Relaxed);
        self.let_in.fetch_sub(let_in_before, Ordering::Relaxed);
        metrics::room(queued, info.state.bytes as f64 / max_bytes.max(1) as f64);
        Ok(())
    }
}

/// The two lanes of a priority are one queue to people.
fn by_priority(lanes: &[QueueLength]) -> Vec<QueueLength> {
    let mut queues: Vec<QueueLength> = Vec::new();
    for lane in lanes {
        let same =
            |one: &&mut QueueLength| (one.model, one.priority) == (lane.model, lane.priority);
        match queues.iter_mut().find(same) {
            Some(queue) => {
                queue.waiting += lane.waiting;
                queue.taken += lane.taken;
            }
            None => queues.push(lane.clone()),
        }
    }
    queues
}
