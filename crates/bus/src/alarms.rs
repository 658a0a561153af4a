//! The record of the alarms, and how their notices are told. [`spotreel_domain::alarm`] decides what is in both.

use async_nats::{Client, HeaderMap};
use spotreel_api::CloudEvent;
use spotreel_domain::alarm::{AlarmBoard, AlarmNotice};

use crate::bucket::{Bucket, Terms};
use crate::events::{EventStream, Topic};
use crate::jetstream::JetStreamError;
use crate::kv;
use crate::names::ALARMS_MARK;

/// Another program publishes at the same moment: what it wrote decides the next try.
const TRIES: usize = 5;

/// The record and the stream of events, for whoever decides on alarms.
pub struct AlarmRecord {
    boards: Bucket<AlarmBoard>,
    events: EventStream,
}

impl AlarmRecord {
    pub async fn open(client: &Client) -> Self {
        Self {
            boards: kv::marks(client, ""),
            events: EventStream::open(client).await,
        }
    }

    /// What is stored, with its revision.
    pub async fn read(&self) -> Result<Option<(u64, AlarmBoard)>, JetStreamError> {
        let entry = self.boards.get(ALARMS_MARK).await?;
        entry
            .map(|entry| Ok((entry.revision, entry.json()?)))
            .transpose()
    }

    /// Stores the board over this revision, 0 for none, and returns the new one. [`JetStreamError::Conflict`]: another program was
    /// first.
    pub async fn store(&self, board: &AlarmBoard, revision: u64) -> Result<u64, JetStreamError> {
        let terms = Terms {
            revision: Some(revision),
            ..Terms::default()
        };
        self.boards.put(ALARMS_MARK, board, terms).await
    }

    /// Publishes a notice of a board that is stored, unless it was published before. False: it was.
    pub async fn tell(&self, notice: &AlarmNotice) -> Result<bool, JetStreamError> {
        let payload = serde_json::to_vec(&CloudEvent::of_alarm(notice))?;
        let payload = bytes::Bytes::from(payload);
        let (topic, state) = (Topic::Alarm(notice.name), notice.state.as_str());
        let mut tries = 0;
        loop {
            let (number, headers) = (notice.number, HeaderMap::new());
            let told = self
                .events
                .publish(topic, state, number, headers, payload.clone());
            match told.await {
                Err(JetStreamError::Conflict) if tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }
}
