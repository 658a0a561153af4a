//! The batch log: one a pool, so that a pool has one active batch at most. Its one writing function, and its readers.
//!
//! An event that no version can decode fails each read on which a decision or a budget rests: what is not known is not zero.
//! Lists for people and monitor's ledgers pass over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap};
use futures::future::try_join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use spotreel_domain::batch::{Batch, BatchId, PoolName};
use tokio::time::Instant;

use crate::append::{AppendError, LogEntry, ReadError, Write, last_message};
use crate::codec;
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, Start, Stored};
use crate::log::Recorded;
use crate::names::{self, BATCHES, TASKS};
use crate::trace;
use crate::unreadable::or_pass_over;

/// Messages of one direct get.
const PAGE: usize = 500;
/// 100,000 ends: more tasks than a batch can work off in its life.
const MAX_PAGES_OF_ENDS: usize = 200;
/// The most batches that [`BatchLog::recent`] shows of a pool: with six events each, their subjects stay under the
/// server's limit of 1,024 a direct get.
pub const MAX_RECENT: u64 = 100;

#[derive(Clone)]
pub struct BatchLog {
    client: Client,
    stream: Stream<()>,
    listed: Arc<Mutex<Option<ListedPools>>>,
}

/// The pools that the log knows.
struct ListedPools {
    at: Instant,
    pools: Vec<PoolName>,
}

/// To list the pools, the server names each batch of the log: hundreds of kilobytes after a year of hourly batches.
const LISTED_GOOD_FOR: Duration = Duration::from_secs(60);

/// An event as it stands in the log.
#[derive(Clone, Debug)]
pub struct RecordedBatch {
    pub sequence: u64,
    /// The state after it.
    pub batch: Batch,
    pub headers: HeaderMap,
    pub stored_at: Timestamp,
}

impl RecordedBatch {
    fn from_message(message: StreamMessage) -> Result<Self, ReadError> {
        Self::from_parts(
            &message.subject,
            message.sequence,
            &message.payload,
            message.headers,
            message.time.unix_timestamp_nanos(),
        )
    }

    fn of_stored(stored: Stored) -> Result<Self, ReadError> {
        Self::from_parts(
            &stored.subject,
            stored.sequence,
            &stored.payload,
            stored.headers,
            stored.stored_at.as_nanosecond(),
        )
    }

    /// None: no version can decode it.
    pub fn from_stored(stored: Stored) -> Result<Option<Self>, ReadError> {
        or_pass_over(BATCHES, Self::of_stored(stored))
    }

    /// Reads an event from what a consumer or a direct get delivered.
    pub fn from_parts(
        subject: &str,
        sequence: u64,
        payload: &[u8],
        headers: HeaderMap,
        stored_nanos: i128,
    ) -> Result<Self, ReadError> {
        let batch = codec::batch::decode(payload)
            .map_err(|source| ReadError::Decode { sequence, source })?;
        if subject != names::batchlog_event(&batch.id, batch.status.name()) {
            return Err(ReadError::Subject {
                sequence,
                subject: subject.to_owned(),
            });
        }
        let stored_at = Timestamp::from_nanosecond(stored_nanos).unwrap_or(batch.at);
        Ok(Self {
            sequence,
            batch,
            headers,
            stored_at,
        })
    }
}

/// What becomes of a read when it finds an event that no version can decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    Fails,
    IsPassedOver,
}

impl Undecodable {
    fn read(self, stored: Stored) -> Result<Option<RecordedBatch>, ReadError> {
        match self {
            Self::Fails => RecordedBatch::of_stored(stored).map(Some),
            Self::IsPassedOver => RecordedBatch::from_stored(stored),
        }
    }
}

impl LogEntry for RecordedBatch {
    fn sequence(&self) -> u64 {
        self.sequence
    }
    fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl BatchLog {
    pub async fn open(client: &Client) -> Self {
        let context = async_nats::jetstream::new(client.clone());
        let stream = context
            .get_stream_no_info(BATCHES)
            .await
            .expect("BATCHES is a valid stream name");
        Self {
            client: client.clone(),
            stream,
            listed: Arc::default(),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Writes the state of a pool's batch, if the pool's newest event is still the one with the sequence `expected`
    /// (0: the pool has none). One request where nothing is in the way.
    pub async fn append(
        &self,
        batch: &Batch,
        expected: u64,
    ) -> Result<u64, AppendError<RecordedBatch>> {
        let mut headers = HeaderMap::new();
        trace::inject(&mut headers);
        let write = Write {
            subject: names::batchlog_event(&batch.id, batch.status.name()),
            filter: names::batchlog_of(&batch.id.pool),
            expected,
            // The client's names for its inboxes are drawn at random and never come twice.
            op: self.client.new_inbox(),
            headers,
            payload: codec::batch::encode(batch).into(),
        };
        write.send(&self.client, || self.last(&batch.id.pool)).await
    }

    /// The pool's newest event, read at the leader: what decisions are made on.
    pub async fn last(&self, pool: &PoolName) -> Result<Option<RecordedBatch>, ReadError> {
        self.newest(&names::batchlog_of(pool)).await
    }

    /// A batch's newest event, read at the leader.
    pub async fn get(&self, id: &BatchId) -> Result<Option<RecordedBatch>, ReadError> {
        self.newest(&names::batchlog_of_batch(id)).await
    }

    async fn newest(&self, filter: &str) -> Result<Option<RecordedBatch>, ReadError> {
        last_message(&self.stream, filter)
            .await?
            .map(RecordedBatch::from_message)
            .transpose()
    }

    /// What the log still holds of a batch, oldest first. Any replica answers.
    pub async fn history(&self, id: &BatchId) -> Result<Vec<RecordedBatch>, ReadError> {
        let filter = names::batchlog_of_batch(id);
        self.scan(&filter, None, Undecodable::Fails).await
    }

    /// The ends of the batches (of one pool) that were written since `since`, in the order of the log: the ledgers.
    /// Any replica answers, so one that ended this moment may be missing.
    pub async fn finals(
        &self,
        pool: Option<&PoolName>,
        since: Timestamp,
        undecodable: Undecodable,
    ) -> Result<Vec<RecordedBatch>, ReadError> {
        let pool = pool.map_or("*", PoolName::as_str);
        let mut ends = Vec::new();
        for end in ["settled", "failed"] {
            let filter = format!("spotreel.batchlog.{pool}.*.{end}");
            ends.extend(self.scan(&filter, Some(since), undecodable).await?);
        }
        ends.sort_by_key(|end| end.sequence);
        Ok(ends)
    }

    /// The pools that have ever had a batch which the log remembers; one that had its first within a minute may be missing.
    pub async fn pools(&self) -> Result<Vec<PoolName>, ReadError> {
        let fresh = |listed: &&ListedPools| listed.at.elapsed() < LISTED_GOOD_FOR;
        let known = {
            let listed = self.listed.lock();
            listed.as_ref().filter(fresh).map(|l| l.pools.clone())
        };
        if let Some(pools) = known {
            return Ok(pools);
        }
        let pools: Vec<_> = self.newest_numbers().await?.into_keys().collect();
        *self.listed.lock() = Some(ListedPools {
            at: Instant::now(),
            pools: pools.clone(),
        });
        Ok(pools)
    }

    /// The newest event of the latest batches, over all pools, newest first.
    pub async fn recent(
        &self,
        limit: usize,
        undecodable: Undecodable,
    ) -> Result<Vec<RecordedBatch>, ReadError> {
        let most = u64::try_from(limit).unwrap_or(u64::MAX).min(MAX_RECENT);
        let mut latest = BTreeMap::new();
        for (pool, number) in self.newest_numbers().await? {
            let first = number.saturating_sub(most) + 1;
            let filters: Vec<String> = (first..=number)
                .map(|number| {
                    let pool = pool.clone();
                    names::batchlog_of_batch(&BatchId { pool, number })
                })
                .collect();
            // In the order of the log: a batch's later event takes the place of its earlier one.
            let query = json!({ "multi_last": filters });
            for event in self.read(&query, undecodable).await? {
                latest.insert(event.batch.id.clone(), event);
            }
        }
        let mut latest: Vec<_> = latest.into_values().collect();
        latest.sort_by_key(|event| std::cmp::Reverse(event.sequence));
        latest.truncate(limit);
        Ok(latest)
    }

    /// The number of each pool's latest batch, by the leader's list of subjects.
    async fn newest_numbers(&self) -> Result<BTreeMap<PoolName, u64>, ReadError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: BTreeMap<String, u64>,
        }
        let filter = json!({ "subjects_filter": "spotreel.batchlog.*.*.requested" });
        let info: Info = jetstream::request(
            &self.client,
            &format!("$JS.API.STREAM.INFO.{BATCHES}"),
            HeaderMap::new(),
            filter.to_string().into(),
            REQUEST_TIMEOUT,
        )
        .await?;
        let ids: BTreeSet<BatchId> = info
            .state
            .subjects
            .keys()
            .filter_map(|subject| names::parse_batchlog_subject(subject))
            .map(|(id, _)| id)
            .collect();
        // In order of their numbers: the last one stays.
        Ok(ids.into_iter().map(|id| (id.pool, id.number)).collect())
    }

    /// All events that match, page after page.
    async fn scan(
        &self,
        filter: &str,
        since: Option<Timestamp>,
        undecodable: Undecodable,
    ) -> Result<Vec<RecordedBatch>, ReadError> {
        let mut all: Vec<RecordedBatch> = Vec::new();
        let mut start = since.map_or(Start::Sequence(1), Start::Time);
        loop {
            let page = jetstream::page(&self.client, BATCHES, filter, start, PAGE).await?;
            let Some(newest) = page.last() else {
                return Ok(all);
            };
            start = Start::Sequence(newest.sequence + 1);
            for stored in page {
                all.extend(undecodable.read(stored)?);
            }
        }
    }

    async fn read(
        &self,
        query: &serde_json::Value,
        undecodable: Undecodable,
    ) -> Result<Vec<RecordedBatch>, ReadError> {
        jetstream::direct_get(&self.client, BATCHES, query)
            .await?
            .into_iter()
            .filter_map(|stored| undecodable.read(stored).transpose())
            .collect()
    }
}

/// The ends since then of tasks whose last attempt was made, and ended for good, on a machine of this batch.
pub async fn ended_on(
    client: &Client,
    batch: &Batch,
    since: Timestamp,
) -> Result<Vec<Recorded>, ReadError> {
    let of_batch = |recorded: &Recorded| {
        let last = recorded.task.attempts.last();
        last.is_some_and(|attempt| batch.instance(&attempt.instance).is_some())
    };
    let ends = ["succeeded", "failed"].map(|end| ends(client, since, end, of_batch));
    Ok(try_join_all(ends).await?.concat())
}

/// Page by page: of those that are not wanted, none is kept.
async fn ends(
    client: &Client,
    since: Timestamp,
    end: &str,
    is_wanted: impl Fn(&Recorded) -> bool,
) -> Result<Vec<Recorded>, ReadError> {
    let filter = format!("spotreel.log.*.{end}");
    let (mut wanted, mut read_to) = (Vec::new(), None);
    for _ in 0..MAX_PAGES_OF_ENDS {
        let start = match read_to {
            Some(sequence) => Start::Sequence(sequence + 1),
            None => Start::Time(since),
        };
        let page = jetstream::page(client, TASKS, &filter, start, PAGE).await?;
        if page.is_empty() {
            break;
        }
        for stored in page {
            read_to = Some(stored.sequence);
            let Some(read) = Recorded::from_stored(stored)? else {
                continue;
            };
            if is_wanted(&read) {
                wanted.push(read);
            }
        }
    }
    Ok(wanted)
}
