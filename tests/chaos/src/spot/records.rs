//! What fleet has written: every batch's story, as far as the log keeps it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::Client;
use spotreel_bus::batches::RecordedBatch;
use spotreel_bus::{BatchLog, Undecodable};
use spotreel_domain::batch::{Batch, BatchId};

use super::market::Admin;

/// Far more than a run makes.
const MOST_BATCHES: usize = 100;

/// One batch.
pub struct Story {
    pub id: BatchId,
    /// Oldest first; the log forgets the oldest of a kind.
    pub events: Vec<RecordedBatch>,
}

impl Story {
    pub fn last(&self) -> &RecordedBatch {
        self.events.last().expect("a batch has an event")
    }

    pub fn batch(&self) -> &Batch {
        &self.last().batch
    }
}

pub async fn stories(client: &Client) -> anyhow::Result<Vec<Story>> {
    let log = BatchLog::open(client).await;
    let mut stories = Vec::new();
    for newest in log.recent(MOST_BATCHES, Undecodable::Fails).await? {
        let id = newest.batch.id;
        let events = log.history(&id).await?;
        if !events.is_empty() {
            stories.push(Story { id, events });
        }
    }
    stories.sort_by_key(|story| story.id.number);
    Ok(stories)
}

/// Waits until no batch is active and no machine of ours is left.
pub async fn settle(client: &Client, admin: &Admin, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let open = match unsettled(client, admin).await {
            Ok(open) if open.is_empty() => return Ok(()),
            Ok(open) => open,
            Err(error) => format!("{error:#}"),
        };
        anyhow::ensure!(begun.elapsed() < limit, "after {limit:?}: {open}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn unsettled(client: &Client, admin: &Admin) -> anyhow::Result<String> {
    let log = BatchLog::open(client).await;
    let recent = log.recent(MOST_BATCHES, Undecodable::Fails).await;
    let active = recent
        .context("the batch log cannot be read")?
        .into_iter()
        .filter(|one| one.batch.is_active())
        .map(|one| format!("{} is {}", one.batch.id, one.batch.status.name()));
    let machines = admin.machines().await?.into_iter();
    let left = machines
        .filter(|machine| machine.is_ours() && machine.is_alive())
        .map(|machine| format!("{} of {} is {}", machine.id, machine.batch(), machine.state));
    Ok(active.chain(left).collect::<Vec<_>>().join(", "))
}
