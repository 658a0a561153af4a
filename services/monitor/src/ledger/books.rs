//! The ledgers of batches as they stand: of closed ones from the stream, of others from what is known now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::BatchLog;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::ledger::LedgerStream;
use spotreel_bus::log::ReadError;
use spotreel_bus::names::BATCHES;
use spotreel_bus::unreadable::or_pass_over;
use spotreel_domain::allocation::BatchLedger;
use spotreel_domain::batch::{Batch, BatchId};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Instances whose attempts are read at the same time.
const AT_ONCE: usize = 16;
/// How long the ledgers of batches that go on are shown: they are made from all attempts of these batches.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Why a ledger cannot be made now.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    #[error("the batch log could not be read")]
    Batches(#[from] ReadError),
    #[error("the stream LEDGER could not be read")]
    Ledger(#[from] JetStreamError),
}

pub struct Books {
    pub batches: BatchLog,
    pub stream: LedgerStream,
    open: Mutex<Option<(Instant, Arc<OpenLedgers>)>>,
    /// Batches that have ended and whose ledgers are not stored yet, as the closer knows them.
    ended: parking_lot::Mutex<BTreeMap<BatchId, Batch>>,
}

/// The ledgers of batches that are not closed.
pub struct OpenLedgers {
    /// From when on they were made.
    pub made_at: Timestamp,
    pub ledgers: Vec<BatchLedger>,
}

impl Books {
    pub fn new(batches: BatchLog, stream: LedgerStream) -> Self {
        Self {
            batches,
            stream,
            open: Mutex::default(),
            ended: parking_lot::Mutex::default(),
        }
    }

    /// The ledger of a batch from the attempts that are stored now.
    pub async fn of(&self, batch: &Batch, now: Timestamp) -> Result<BatchLedger, JetStreamError> {
        let mut records = Vec::new();
        for some in batch.instances.chunks(AT_ONCE) {
            let mut reads = Vec::new();
            for one in some {
                reads.push(self.stream.attempts_on(&one.id));
            }
            records.extend(try_join_all(reads).await?.into_iter().flatten());
        }
        Ok(BatchLedger::of(batch, records, now))
    }

    /// The ledgers of all batches that are not closed: of those that go on, and of those that ended a moment ago.
    pub async fn open(&self) -> Result<Arc<OpenLedgers>, BooksError> {
        let mut open = self.open.lock().await;
        if let Some((_, known)) = open.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR) {
            return Ok(Arc::clone(known));
        }
        let (at, made_at) = (Instant::now(), ambient::now());
        let mut batches = self.ended.lock().clone();
        let pools = self.batches.pools().await?;
        for pool in &pools {
            let newest = or_pass_over(BATCHES, self.batches.last(pool).await)?;
            if let Some(newest) = newest.flatten() {
                batches.insert(newest.batch.id.clone(), newest.batch);
            }
        }
        let mut ledgers = Vec::new();
        for (id, batch) in batches {
            let is_closed = !batch.is_active() && self.stream.is_closed(&id).await?;
            if !is_closed {
                ledgers.push(self.of(&batch, ambient::now()).await?);
            }
        }
        let made = Arc::new(OpenLedgers { made_at, ledgers });
        *open = Some((at, Arc::clone(&made)));
        Ok(made)
    }

    pub(super) fn ended(&self, batch: Batch) {
        self.ended.lock().insert(batch.id.clone(), batch);
    }

    pub(super) fn closed(&self, id: &BatchId) {
        self.ended.lock().remove(id);
    }
}
