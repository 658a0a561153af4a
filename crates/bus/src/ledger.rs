//! The stream LEDGER: the attempts of all tasks, recorded before the log forgets them, and the ledgers of closed batches.
//!
//! Every message has a subject of its own, and the same fact always has the same subject and the same content. So any number
//! of monitors may write, in any order and again. A message that is not JSON is passed over.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_domain::TaskId;
use spotreel_domain::allocation::{AttemptRecord, BatchLedger, CostCell, TaskShare};
use spotreel_domain::batch::BatchId;

use crate::atomic::{self, MAX_BATCH, Message};
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, JetStreamError, PubAck, Start, Stored};
use crate::names::{self, HEADER_EXPECTED, LEDGER, LEDGER_COSTS};
use crate::unreadable::pass_over;

/// Messages of one direct get.
const PAGE: usize = 500;
/// Cells of one message: with the most and longest labels still below the server's limit of a payload.
const CELLS: usize = 1_000;

#[derive(Clone)]
pub struct LedgerStream {
    client: Client,
}

impl LedgerStream {
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
        }
    }

    /// Stores what is known of an attempt, unless it is stored already.
    pub async fn record(&self, record: &AttemptRecord) -> Result<(), JetStreamError> {
        self.create(names::ledger_attempt(record), record)
            .await
            .map(drop)
    }

    /// All that is known of the attempts on an instance. Any replica answers, so the newest may be missing.
    pub async fn attempts_on(&self, instance: &str) -> Result<Vec<AttemptRecord>, JetStreamError> {
        let mut pages = self.pages(names::ledger_attempts_on(instance), Start::Sequence(1));
        let mut records = Vec::new();
        while let Some(page) = pages.next().await? {
            for stored in &page {
                records.extend(read(stored)?);
            }
        }
        Ok(records)
    }

    /// Writes the ledger of a closed batch: first its tasks and its costs, then the ledger itself, once and for all. Returns
    /// whether it was not there yet.
    pub async fn close(&self, ledger: &BatchLedger) -> Result<bool, JetStreamError> {
        let batch = &ledger.batch;
        for tasks in ledger.tasks.chunks(MAX_BATCH) {
            let message = |share: &TaskShare| {
                let payload = serde_json::to_vec(share)?;
                Ok((names::ledger_share(batch, &share.task), payload.into()))
            };
            let messages: Result<Vec<_>, JetStreamError> = tasks.iter().map(message).collect();
            self.put_all(messages?).await?;
        }
        for (part, cells) in ledger.cells.chunks(CELLS).enumerate() {
            let payload = serde_json::to_vec(cells)?;
            let message = (names::ledger_costs(batch, part), payload.into());
            self.put_all(vec![message]).await?;
        }
        let head = BatchLedger {
            tasks: Vec::new(),
            cells: Vec::new(),
            ..ledger.clone()
        };
        self.create(names::ledger_batch(batch), &head).await
    }

    /// The ledger of a closed batch, without its tasks and cells.
    pub async fn ledger(&self, batch: &BatchId) -> Result<Option<BatchLedger>, JetStreamError> {
        let (filter, start) = (names::ledger_batch(batch), Start::Sequence(1));
        let found = jetstream::page(&self.client, LEDGER, &filter, start, 1).await?;
        let head = found.first().map(read).transpose()?;
        Ok(head.flatten())
    }

    /// Whether the ledger of a batch is stored. Any replica answers, so the newest may be missing.
    pub async fn is_closed(&self, batch: &BatchId) -> Result<bool, JetStreamError> {
        let (filter, start) = (names::ledger_batch(batch), Start::Sequence(1));
        let found = jetstream::page(&self.client, LEDGER, &filter, start, 1).await?;
        Ok(!found.is_empty())
    }

    /// What each task cost in a closed batch, as far as `T` keeps it.
    pub async fn shares_in<T: From<TaskShare>>(
        &self,
        batch: &BatchId,
    ) -> Result<Vec<T>, JetStreamError> {
        let mut pages = self.pages(names::ledger_shares_in(batch), Start::Sequence(1));
        let mut shares = Vec::new();
        while let Some(page) = pages.next().await? {
            for stored in &page {
                let share: Option<TaskShare> = read(stored)?;
                shares.extend(share.map(T::from));
            }
        }
        Ok(shares)
    }

    /// What a task cost in each closed batch, in the order in which they were closed.
    pub async fn shares_of(
        &self,
        task: &TaskId,
    ) -> Result<Vec<(BatchId, TaskShare)>, JetStreamError> {
        let query = serde_json::json!({ "multi_last": [names::ledger_shares_of(task)] });
        let found = jetstream::direct_get(&self.client, LEDGER, &query).await?;
        let named = |stored: &Stored| {
            let batch = names::parse_ledger_subject(&stored.subject)?;
            let share = read(stored).transpose()?;
            Some(share.map(|share| (batch, share)))
        };
        found.iter().filter_map(named).collect()
    }

    /// The costs of the batches that were closed since then.
    pub fn costs_since(&self, since: Timestamp) -> CostPages {
        CostPages(self.pages(LEDGER_COSTS.to_owned(), Start::Time(since)))
    }

    fn pages(&self, filter: String, start: Start) -> Pages {
        Pages {
            client: self.client.clone(),
            filter,
            start,
        }
    }

    /// Returns whether it was not there yet.
    async fn create<T: Serialize>(
        &self,
        subject: String,
        value: &T,
    ) -> Result<bool, JetStreamError> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_EXPECTED, "0");
        let payload = serde_json::to_vec(value)?.into();
        let stored =
            jetstream::request::<PubAck>(&self.client, &subject, headers, payload, REQUEST_TIMEOUT);
        match stored.await {
            Ok(_) => Ok(true),
            Err(JetStreamError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All of them or none, with one fsync.
    async fn put_all(&self, messages: Vec<(String, Bytes)>) -> Result<(), JetStreamError> {
        // Drawn at random, and never comes twice.
        let inbox = self.client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or(&inbox);
        let message = |(subject, payload)| Message {
            subject,
            headers: HeaderMap::new(),
            payload,
        };
        let messages = messages.into_iter().map(message);
        atomic::publish(&self.client, messages.collect(), id)
            .await
            .map(drop)
    }
}

/// Costs of closed batches, page after page.
pub struct CostPages(Pages);

impl CostPages {
    /// None at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(BatchId, Vec<CostCell>)>>, JetStreamError> {
        let Some(page) = self.0.next().await? else {
            return Ok(None);
        };
        let named = |stored: &Stored| {
            let batch = names::parse_ledger_subject(&stored.subject)?;
            let cells = read(stored).transpose()?;
            Some(cells.map(|cells| (batch, cells)))
        };
        page.iter()
            .filter_map(named)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// Messages of the stream, page after page.
struct Pages {
    client: Client,
    filter: String,
    start: Start,
}

impl Pages {
    /// None at the end.
    async fn next(&mut self) -> Result<Option<Vec<Stored>>, JetStreamError> {
        let page = jetstream::page(&self.client, LEDGER, &self.filter, self.start, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        self.start = Start::Sequence(last.sequence + 1);
        Ok(Some(page))
    }
}

/// None: it is not JSON, and is passed over. JSON with other fields or words is one of a newer version.
fn read<T: DeserializeOwned>(stored: &Stored) -> Result<Option<T>, JetStreamError> {
    match serde_json::from_slice(&stored.payload) {
        Err(error) if !error.is_data() => {
            pass_over(LEDGER, stored.sequence, &error);
            Ok(None)
        }
        read => Ok(Some(read?)),
    }
}
