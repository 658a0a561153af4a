//! What clients receive of an event of a log; publishes those of batches.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use spotreel_api::{CloudEvent, Video};
use spotreel_bootstrap::ambient;
use spotreel_bus::events::EventStream;
use spotreel_bus::{Recorded, RecordedBatch, TaskLog};
use spotreel_domain::TaskId;
use spotreel_domain::task::{Artifact, Event, State};
use spotreel_s3::Store;

use crate::config::NotifierConfig;
use crate::error::NotifyError;

/// Trace context goes with the event: one trace from the submission to whoever hears of its end.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// When an event was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Now,
    /// This notifier before a crash, or another one.
    Before,
}

pub struct Notifier {
    pub(crate) nats: Client,
    pub(crate) events: EventStream,
    pub(crate) log: TaskLog,
    store: Store,
    pub(crate) config: NotifierConfig,
}

impl Notifier {
    pub async fn new(nats: &Client, store: Store, config: NotifierConfig) -> Self {
        Self {
            nats: nats.clone(),
            events: EventStream::open(nats).await,
            log: TaskLog::open(nats).await,
            store,
            config,
        }
    }

    /// Publishes an event of a batch, unless it or a newer one of the batch has been published.
    pub async fn publish_batch(&self, recorded: &RecordedBatch) -> Result<Said, NotifyError> {
        let (sequence, batch) = (recorded.sequence, &recorded.batch);
        let event = CloudEvent::of_batch(sequence, batch, recorded.stored_at);
        let (name, payload) = (batch.status.name(), serde_json::to_vec(&event)?);
        let headers = trace_headers(&recorded.headers);
        let stored = self
            .events
            .publish(&batch.id, name, sequence, headers, payload.into());
        Ok(if stored.await? {
            Said::Now
        } else {
            Said::Before
        })
    }

    /// What clients receive of an event: headers and payload.
    pub(crate) async fn public(
        &self,
        recorded: &Recorded,
    ) -> Result<(HeaderMap, Bytes), NotifyError> {
        let video = match &recorded.task.state {
            State::Succeeded { artifact } => Some(self.video(&recorded.task.id, artifact).await?),
            _ => None,
        };
        let (sequence, event, task) = (recorded.sequence, recorded.event, &recorded.task);
        let public = CloudEvent::of_task(sequence, event, task, video);
        let payload = serde_json::to_vec(&public)?;
        Ok((trace_headers(&recorded.headers), payload.into()))
    }

    async fn video(&self, id: &TaskId, artifact: &Artifact) -> Result<Video, NotifyError> {
        let expires = self.config.link_expires;
        let name = format!("{id}.mp4");
        let signed = self.store.presign_get(&artifact.key, Some(&name), expires);
        match signed.await {
            Ok(link) => Ok(Video {
                artifact: artifact.clone(),
                poster_url: self.poster(artifact).await,
                url: Some(link.url),
                url_expires_at: ambient::now().saturating_add(link.lasts).ok(),
            }),
            Err(source) if source.retryable() => Err(NotifyError::Link {
                key: artifact.key.clone(),
                source,
            }),
            Err(error) => {
                tracing::error!(error = %spotreel_domain::chain(&error), key = artifact.key, "signing the video link failed; publishing the event without it");
                Ok(Video {
                    artifact: artifact.clone(),
                    url: None,
                    url_expires_at: None,
                    poster_url: None,
                })
            }
        }
    }

    async fn poster(&self, artifact: &Artifact) -> Option<String> {
        let key = artifact.poster.as_ref()?;
        let expires = self.config.link_expires;
        match self.store.presign_get(key, None, expires).await {
            Ok(link) => Some(link.url),
            Err(error) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), key, "signing the poster link failed");
                None
            }
        }
    }
}

fn trace_headers(logged: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for header in TRACE_HEADERS {
        if let Some(value) = logged.get(header) {
            headers.insert(header, value.clone());
        }
    }
    headers
}

/// Work items leave the log once their task has ended, which may be before a notifier that was down has read them.
/// The event that came after one tells all that it said, but the time of a later round's.
pub(crate) fn queued_before(recorded: &Recorded) -> Option<Recorded> {
    let mut task = recorded.task.clone();
    match recorded.event {
        Event::Started => task.attempts_total -= task.attempts.pop().map_or(0, |_| 1),
        Event::Cancelled | Event::Expired => {}
        _ => return None,
    }
    if task.round == 1 {
        task.at = task.submitted_at;
    }
    (task.failures, task.lost_in_row, task.start) = (0, 0, 0);
    task.state = State::Queued { not_before: None };
    let (sequence, event) = (task.entry, Event::Queued);
    Some(Recorded {
        sequence,
        event,
        task,
        ..recorded.clone()
    })
}
