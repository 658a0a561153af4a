//! Number of unfinished tasks by model and lane, as the server counts them.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::Client;
use futures::future::try_join_all;
use jiff::Timestamp;
use serde::Deserialize;
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::log::ReadError;
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::names::{self, TASKS};
use spotreel_bus::{LogRoom, TaskLog};
use spotreel_domain::pool::Pools;
use spotreel_domain::{Lane, Model};
use spotreel_proto::worker::v1::Presence;

use crate::oldest::Oldest;

#[derive(Debug, thiserror::Error)]
#[error("the queue {consumer} could not be counted")]
pub struct CountError {
    pub consumer: String,
    pub source: JetStreamError,
}

/// The queues of all models that some pool renders.
#[derive(Clone, Debug, Default)]
pub struct Queues(BTreeMap<(Model, Lane), QueueCounts>);

#[derive(Clone, Copy, Debug)]
pub struct QueueCounts {
    pub pending: u64,
    /// Delivered and not acknowledged.
    pub in_hand: u64,
    pub acked_to: u64,
    /// When the oldest task came that no worker has in hand; only where that was looked for.
    pub oldest: Option<Timestamp>,
}

impl QueueCounts {
    pub fn length(&self) -> u64 {
        self.pending + self.in_hand
    }
}

impl Queues {
    pub async fn read(client: &Client, pools: &Pools) -> Result<Self, CountError> {
        let models: BTreeSet<_> = pools.pool.values().flat_map(|pool| &pool.models).collect();
        let queues = models
            .into_iter()
            .flat_map(|model| Lane::ALL.map(|lane| (*model, lane)));
        let counts = queues.map(async |(model, lane)| {
            let consumer = names::work_consumer(model, lane);
            match count(client, &consumer).await {
                Ok(queue) => Ok(((model, lane), queue)),
                Err(source) => Err(CountError { consumer, source }),
            }
        });
        let counted: Vec<_> = try_join_all(counts).await?;
        Ok(Self(counted.into_iter().collect()))
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = (&(Model, Lane), &QueueCounts)> {
        self.0.iter()
    }

    fn of<'a>(&'a self, models: &'a [Model]) -> impl Iterator<Item = (Model, &'a QueueCounts)> {
        let queues = self.0.iter().map(|((model, _), queue)| (*model, queue));
        queues.filter(|(model, _)| models.contains(model))
    }

    /// Tasks that have not ended, by model.
    pub fn tasks(&self, models: &[Model]) -> BTreeMap<Model, u64> {
        let mut tasks = BTreeMap::new();
        for (model, queue) in self.of(models) {
            *tasks.entry(model).or_default() += queue.length();
        }
        tasks
    }

    /// Tasks that were delivered to a worker and have not ended.
    pub fn in_hand(&self, models: &[Model]) -> u64 {
        self.of(models).map(|(_, queue)| queue.in_hand).sum()
    }

    /// When the oldest task of these models came that no worker has in hand.
    pub fn oldest(&self, models: &[Model]) -> Option<Timestamp> {
        self.of(models).filter_map(|(_, queue)| queue.oldest).min()
    }

    /// Looks in each queue for the first entry after those that were acknowledged and that no worker says it has in hand.
    pub async fn find_oldest(
        &mut self,
        oldest: &Oldest,
        log: &TaskLog,
        workers: &[Presence],
    ) -> Result<(), ReadError> {
        let in_hand: BTreeSet<&str> = workers.iter().map(|w| w.task.as_str()).collect();
        let waiting = self.0.iter_mut().filter(|(_, queue)| queue.length() > 0);
        let found = waiting.map(async |(key, queue)| {
            queue.oldest = oldest.waiting(log, *key, queue.acked_to, &in_hand).await?;
            Ok::<_, ReadError>(())
        });
        try_join_all(found).await.map(drop)
    }
}

/// Whether the task log is too full for workers to start a task.
pub async fn log_is_full(client: &Client) -> Result<bool, JetStreamError> {
    let room = LogRoom::of_log(client).await?;
    Ok(room.is_used_to(ENDS_ONLY_PERCENT))
}

/// Of the server's long answer only the counts are read: every look asks for each model and lane.
async fn count(client: &Client, consumer: &str) -> Result<QueueCounts, JetStreamError> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
        ack_floor: Position,
    }
    #[derive(Deserialize)]
    struct Position {
        stream_seq: u64,
    }
    let asked = jetstream::consumer_info::<Info>(client, TASKS, consumer);
    asked.await.map(|info| QueueCounts {
        pending: info.num_pending,
        in_hand: info.num_ack_pending,
        acked_to: info.ack_floor.stream_seq,
        oldest: None,
    })
}

#[cfg(test)]
impl Queues {
    /// Of one lane each: the tasks that wait and those in hand.
    pub(crate) fn with<const N: usize>(queues: [(Model, u64, u64); N]) -> Self {
        let lane = Lane::ALL[0];
        let queue = |(model, pending, in_hand)| {
            let queue = QueueCounts {
                pending,
                in_hand,
                acked_to: 0,
                oldest: None,
            };
            ((model, lane), queue)
        };
        Self(queues.map(queue).into())
    }
}
