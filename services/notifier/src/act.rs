//! Publishes one event of a log to clients.

use async_nats::{Client, HeaderMap};
use spotreel_api::{CloudEvent, Video};
use spotreel_bootstrap::ambient;
use spotreel_bus::events::{EventStream, Topic};
use spotreel_bus::{Recorded, RecordedBatch};
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
    events: EventStream,
    store: Store,
    pub(crate) config: NotifierConfig,
}

impl Notifier {
    pub async fn new(nats: &Client, store: Store, config: NotifierConfig) -> Self {
        Self {
            nats: nats.clone(),
            events: EventStream::open(nats).await,
            store,
            config,
        }
    }

    /// As [`Self::publish`], of a batch.
    pub async fn publish_batch(&self, recorded: &RecordedBatch) -> Result<Said, NotifyError> {
        let (sequence, batch) = (recorded.sequence, &recorded.batch);
        let event = CloudEvent::of_batch(sequence, batch, recorded.stored_at);
        let topic = Topic::from(&batch.id);
        self.say(
            topic,
            batch.status.name(),
            sequence,
            &recorded.headers,
            &event,
        )
        .await
    }

    /// Publishes an event, unless it or a newer one of the task has been published.
    pub async fn publish(&self, recorded: &Recorded) -> Result<Said, NotifyError> {
        if let Some(queued) = queued_before(recorded) {
            self.publish_one(&queued).await?;
        }
        self.publish_one(recorded).await
    }

    async fn publish_one(&self, recorded: &Recorded) -> Result<Said, NotifyError> {
        let video = match &recorded.task.state {
            State::Succeeded { artifact } => Some(self.video(&recorded.task.id, artifact).await?),
            _ => None,
        };
        let (sequence, event, task) = (recorded.sequence, recorded.event, &recorded.task);
        let public = CloudEvent::of_task(sequence, event, task, video);
        let topic = Topic::from(&task.id);
        self.say(topic, event.as_str(), sequence, &recorded.headers, &public)
            .await
    }

    async fn say(
        &self,
        topic: Topic<'_>,
        name: &str,
        sequence: u64,
        logged: &HeaderMap,
        event: &impl serde::Serialize,
    ) -> Result<Said, NotifyError> {
        let payload = serde_json::to_vec(event)?;
        let mut headers = HeaderMap::new();
        for header in TRACE_HEADERS {
            if let Some(value) = logged.get(header) {
                headers.insert(header, value.clone());
            }
        }
        let stored = self
            .events
            .publish(topic, name, sequence, headers, payload.into())
            .await?;
        Ok(if stored { Said::Now } else { Said::Before })
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

/// Work items leave the log once their task has ended, which may be before a notifier that was down has read them.
/// The event that came after one tells all that it said, but the time of a later round's.
fn queued_before(recorded: &Recorded) -> Option<Recorded> {
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
