//! Queues unfinished tasks again whose work item is gone.
//!
//! Nothing should take an item away before its task has ended. This is the net under that rule: an ack that came too
//! early, a message deleted by hand, a disk that came back older than the consumers that were read from it.
//!
//! A pass is cheap, however long the queues are. What lies at or below a work consumer's ack floor will not be delivered any
//! more, and the sweeper deletes the items of ended tasks there, so that nothing is left to look at in a healthy log. A
//! redelivery that waits lies above the floor. Items that are gone from the log are found by the other events of their
//! tasks, a bounded number of them a pass.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::names::{work_consumer, work_filter};
use spotreel_bus::{AppendError, LogRoom, Recorded, TaskLog, kv};
use spotreel_domain::{Event, Lane, Model, TaskId};
use tokio_util::sync::CancellationToken;

use crate::config::NetConfig;
use crate::error::HandleError;
use crate::janitor::{Janitor, age};
use crate::pages::LogPages;
use crate::{metrics, pages, reconcile};

const NAME: &str = "net";
/// Pages of one event's kind that a pass reads; the next pass goes on behind them.
const PAGES_A_PASS: usize = 10;
/// What a task that has not ended leaves behind besides its work items.
const ATTEMPTS: [Event; 4] = [
    Event::Started,
    Event::Interrupted,
    Event::Lost,
    Event::AttemptFailed,
];

pub struct Net {
    log: TaskLog,
    config: NetConfig,
    /// Where the next pass begins among each of [`ATTEMPTS`].
    from: Mutex<[u64; ATTEMPTS.len()]>,
}

impl Net {
    pub fn new(log: TaskLog, config: NetConfig) -> Self {
        Self {
            log,
            config,
            from: Mutex::new([1; ATTEMPTS.len()]),
        }
    }

    /// A pass every so often, until told to stop.
    pub(crate) async fn run(&self, janitor: &Janitor, stopping: CancellationToken) {
        let mut tick = tokio::time::interval(self.config.every);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopping.cancelled() => return,
            }
            let pass = stopping.run_until_cancelled(self.look(janitor)).await;
            if let Some(Err(error)) = pass {
                let error = spotreel_domain::chain(&error);
                tracing::warn!(error, "looking for lost work items failed; retrying later");
            }
        }
    }

    /// One pass. Returns how many tasks were queued again.
    pub async fn look(&self, janitor: &Janitor) -> Result<usize, HandleError> {
        let mut restored = 0;
        for model in Model::ALL {
            for lane in Lane::ALL {
                restored += self.below_floor(model, lane).await?;
            }
        }
        for id in self.attempted().await? {
            let Some(last) = pages::last(&self.log, &id).await? else {
                continue;
            };
            if last.task.is_terminal() {
                continue;
            }
            if self.log.holds(last.task.entry).await? {
                janitor.trim(&last).await?;
            } else {
                restored += usize::from(self.restore(&last).await?);
            }
        }
        Ok(restored)
    }

    /// The items that the queue will not deliver any more.
    async fn below_floor(&self, model: Model, lane: Lane) -> Result<usize, HandleError> {
        let name = work_consumer(model, lane);
        let floor = match reconcile::consumer(self.log.client(), &name).await {
            Ok(info) => info.ack_floor.stream_sequence,
            Err(source) => {
                return Err(HandleError::Look {
                    consumer: name,
                    source,
                });
            }
        };
        let filter = work_filter(model, lane);
        let mut items_of_lane = LogPages::new(&self.log, &filter, 1, NAME);
        let mut restored = 0;
        loop {
            let items = items_of_lane.next().await?;
            let Some(newest) = items.last().map(|item| item.sequence) else {
                return Ok(restored);
            };
            for item in items.iter().take_while(|item| item.sequence <= floor) {
                let last = pages::last(&self.log, &item.task.id).await?;
                if let Some(last) = last.filter(|last| last.task.entry == item.sequence) {
                    restored += usize::from(self.restore(&last).await?);
                }
            }
            if newest > floor {
                return Ok(restored);
            }
        }
    }

    /// The tasks that an attempt was made at, as far as this pass comes.
    async fn attempted(&self) -> Result<BTreeSet<TaskId>, HandleError> {
        let mut from = *self.from.lock();
        let mut tasks = BTreeSet::new();
        for (event, from) in ATTEMPTS.into_iter().zip(&mut from) {
            let filter = format!("spotreel.log.*.{}", event.as_str());
            let mut pages = LogPages::new(&self.log, &filter, *from, NAME);
            for _ in 0..PAGES_A_PASS {
                let events = pages.next().await?;
                if events.is_empty() {
                    pages.from = 1;
                    break;
                }
                tasks.extend(events.into_iter().map(|event| event.task.id));
            }
            *from = pages.from;
        }
        *self.from.lock() = from;
        Ok(tasks)
    }

    /// Queues a task again whose item is gone, unless it has just moved or a worker still renders it.
    async fn restore(&self, last: &Recorded) -> Result<bool, HandleError> {
        let (id, now) = (&last.task.id, ambient::now());
        if age(last, now) < self.config.patience || self.is_rendered(last).await? {
            return Ok(false);
        }
        // Nobody would start it now.
        let room = LogRoom::of_log(self.log.client()).await;
        if room
            .map_err(HandleError::Room)?
            .is_used_to(ENDS_ONLY_PERCENT)
        {
            return Ok(false);
        }
        // Refused: it has ended, and the sweeper sees to its item.
        let Ok(step) = last.task.restored(now) else {
            return Ok(false);
        };
        let append = Append::new(step, last.sequence, ambient::uuid_v4());
        match self.log.append(&append).await {
            Ok(entry) => {
                let (state, lost) = (last.task.state.name(), last.task.entry);
                tracing::warn!(task = %id, state, lost, entry, "work item of an unfinished task was missing; task queued again");
                metrics::restored();
                Ok(true)
            }
            Err(AppendError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the worker of the running attempt still says that it has the task in hand: its item may be gone, and the video
    /// comes all the same.
    async fn is_rendered(&self, last: &Recorded) -> Result<bool, HandleError> {
        let Some(attempt) = last.task.running() else {
            return Ok(false);
        };
        let presence = kv::presence(self.log.client(), &attempt.worker).await;
        let presence = presence.map_err(|source| HandleError::Presence {
            worker: attempt.worker.clone(),
            source,
        })?;
        Ok(presence.is_some_and(|presence| presence.task == last.task.id.as_str()))
    }
}
