//! Stores the ledger of each batch that has ended, once its attempts are stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use spotreel_bootstrap::{Health, ambient};
use spotreel_bus::Undecodable;
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::log::ReadError;
use spotreel_bus::names::{CONSUMER_LEDGER, TASKS};
use spotreel_domain::batch::{Batch, BatchId};
use tokio_util::sync::CancellationToken;

use super::books::Books;
use crate::error::ConsumerInfoError;
use crate::{metrics, reconcile};

/// Batches that ended before that have no attempts in the log any more, which keeps a task for 30 days.
const LOOK_BACK: Duration = Duration::from_secs(45 * 24 * 3600);
/// How far each pass looks back behind the one before: further than a replica of the batch log is behind.
const OVERLAP: Duration = Duration::from_secs(600);

const CHECK: &str = "ledgers of batches";

/// Why a pass has closed no ledgers.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error("the batch log could not be read")]
    Batches(#[from] ReadError),
    #[error("info of consumer {CONSUMER_LEDGER} could not be read")]
    Look(#[from] ConsumerInfoError),
    #[error("info of the task log could not be read")]
    Log(#[source] JetStreamError),
    #[error(
        "ledger of batch {batch} could not be read or written: check that the stream LEDGER exists (`spotreel provision` \
         makes it) and has room"
    )]
    Ledger {
        batch: BatchId,
        source: JetStreamError,
    },
}

pub struct Closer {
    client: Client,
    books: Arc<Books>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Ends of batches before that were looked at.
    seen_to: Option<Timestamp>,
    waiting: BTreeMap<BatchId, Waiting>,
}

#[derive(Clone)]
struct Waiting {
    batch: Batch,
    /// The newest event of the task log when the end of the batch was seen: what its instances did lies before.
    attempts_to: u64,
}

impl Closer {
    pub fn new(client: &Client, books: &Arc<Books>) -> Self {
        Self {
            client: client.clone(),
            books: Arc::clone(books),
            progress: Mutex::default(),
        }
    }

    pub(crate) async fn run(self, every: Duration, health: Health, stopping: CancellationToken) {
        let mut tick = tokio::time::interval(every);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopping.cancelled() => return,
            }
            let Some(closed) = stopping.run_until_cancelled(self.close_once()).await else {
                return;
            };
            let closed = closed.map_err(|error| spotreel_domain::chain(&error));
            if let Err(error) = &closed {
                tracing::warn!(
                    error,
                    "closing ledgers of ended batches failed; retrying later"
                );
            }
            health.set(CHECK, closed.map(drop));
        }
    }

    /// One pass. Returns the number of ledgers that this pass stored. A batch whose ledger cannot be stored holds up no other.
    pub async fn close_once(&self) -> Result<usize, CloseError> {
        self.look_for_ends().await?;
        let waiting: Vec<Waiting> = self.progress.lock().waiting.values().cloned().collect();
        metrics::open_ledgers(waiting.len());
        if waiting.is_empty() {
            return Ok(0);
        }
        let info = reconcile::consumer(&self.client, CONSUMER_LEDGER).await?;
        let has_all = info.num_pending == 0 && info.num_ack_pending == 0;
        let (mut closed, mut failed) = (0, None);
        for Waiting { batch, attempts_to } in waiting {
            if has_all || info.ack_floor.stream_sequence >= attempts_to {
                match self.close(&batch).await {
                    Ok(is_new) => closed += usize::from(is_new),
                    Err(error) => failed = Some(error),
                }
            }
        }
        failed.map_or(Ok(closed), Err)
    }

    async fn look_for_ends(&self) -> Result<(), CloseError> {
        let now = ambient::now();
        let seen_to = self.progress.lock().seen_to;
        let since = seen_to.unwrap_or_else(|| now.saturating_sub(LOOK_BACK).unwrap_or(now));
        let ends = self
            .books
            .batches
            .finals(None, since, Undecodable::IsPassedOver);
        let mut ends = ends.await?;
        ends.retain(|end| !self.progress.lock().waiting.contains_key(&end.batch.id));
        let mut fresh = Vec::new();
        for end in ends {
            if !self.is_closed(&end.batch.id).await? {
                fresh.push(end.batch);
            }
        }
        if !fresh.is_empty() {
            let attempts_to = self.newest_event().await?;
            for batch in fresh {
                self.books.ended(batch.clone());
                let waiting = Waiting { batch, attempts_to };
                let mut progress = self.progress.lock();
                progress.waiting.insert(waiting.batch.id.clone(), waiting);
            }
        }
        self.progress.lock().seen_to = Some(now.saturating_sub(OVERLAP).unwrap_or(now));
        Ok(())
    }

    async fn close(&self, batch: &Batch) -> Result<bool, CloseError> {
        let failed = |source| CloseError::Ledger {
            batch: batch.id.clone(),
            source,
        };
        let ledger = self.books.of(batch, ambient::now()).await.map_err(failed)?;
        let is_new = self.books.stream.close(&ledger).await.map_err(failed)?;
        self.progress.lock().waiting.remove(&batch.id);
        self.books.closed(&batch.id);
        if is_new {
            let (total, tasks) = (ledger.total, ledger.task_count);
            tracing::info!(batch = %batch.id, %total, tasks, "ledger closed");
            metrics::closed_ledger();
        }
        Ok(is_new)
    }

    async fn is_closed(&self, batch: &BatchId) -> Result<bool, CloseError> {
        let found = self.books.stream.is_closed(batch).await;
        found.map_err(|source| CloseError::Ledger {
            batch: batch.clone(),
            source,
        })
    }

    async fn newest_event(&self) -> Result<u64, CloseError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            last_seq: u64,
        }
        let info: Info = jetstream::stream_info(&self.client, TASKS)
            .await
            .map_err(CloseError::Log)?;
        Ok(info.state.last_seq)
    }
}
