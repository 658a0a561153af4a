//! Deletes work items of finished tasks, so that the queue length is the number of runnable tasks.
//!
//! A worker acks what it ends, but it may die before that, and then nobody may pull for hours. Deleting the message
//! takes it out of the count whatever state it is in.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::names::{CONSUMER_SWEEPER, SWEEPER_MARK};
use spotreel_bus::{Recorded, TaskLog, kv};
use spotreel_domain::{Event, Task};
use tokio_util::sync::CancellationToken;

use crate::consume::Handled;
use crate::error::{ConsumerInfoError, HandleError};
use crate::{metrics, reconcile};

pub const CONSUMER: &str = CONSUMER_SWEEPER;

const MARK_CHECK: &str = "sweeper's mark";

pub struct Sweeper {
    log: TaskLog,
}

impl Sweeper {
    pub fn new(log: TaskLog) -> Self {
        Self { log }
    }

    pub async fn handle(self: Arc<Self>, event: Recorded) -> Result<Handled, HandleError> {
        if let Some(sequence) = ended_entry(event.event, &event.task) {
            self.log
                .delete(sequence)
                .await
                .map_err(|source| HandleError::Delete { sequence, source })?;
            metrics::swept();
        }
        Ok(Handled::Done)
    }
}

/// The work item that an event has put an end to. An event that comes late, after a retry has begun a new round, still
/// names the item of its own round: the new one has another sequence.
fn ended_entry(event: Event, task: &Task) -> Option<u64> {
    let ended = match event {
        Event::Queued => task.previous_entry,
        event if event.is_terminal() => task.entry,
        _ => 0,
    };
    // The state after the event decides: the item of a runnable task is never the one that ended.
    let live = if task.is_terminal() { 0 } else { task.entry };
    (ended != 0 && ended != live).then_some(ended)
}

/// Says, while it is true, that all is swept: nothing waits and nothing is in hand. Counts may be trusted as far as the
/// log went then.
pub(crate) async fn mark(
    client: Client,
    every: Duration,
    health: Health,
    stopping: CancellationToken,
) {
    let mut tick = tokio::time::interval(every);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopping.cancelled() => return,
        }
        let marked = try_mark(&client).await;
        let marked = marked.map_err(|error| spotreel_domain::chain(&error));
        if let Err(error) = &marked {
            tracing::warn!(
                error,
                "sweeper's status record could not be written; trigger and fleet wait for it"
            );
        }
        health.set(MARK_CHECK, marked);
    }
}

async fn try_mark(client: &Client) -> Result<(), ConsumerInfoError> {
    let at = ambient::now();
    let consumer = reconcile::consumer(client, CONSUMER).await?;
    let caught_up = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
    if caught_up {
        let mark =
            serde_json::json!({ "at": at, "log_sequence": consumer.delivered.stream_sequence });
        kv::put_mark(client, SWEEPER_MARK, &mark).await?;
        metrics::marked(at);
    }
    Ok(())
}
