//! From the engine's file to the task's video: gate, S3, `succeeded`, ack, in this order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_bus::retry;
use spotreel_bus::{AppendError, Lease, Recorded};
use spotreel_domain::Task;
use spotreel_domain::chain;
use spotreel_domain::task::{Artifact, Failure, FailureKind};
use spotreel_s3::{HeadError, PutFileError, Store};
use tokio::runtime::Runtime;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::gate::{self, Expectation, GateError, VideoFacts};
use crate::task::error::Blame;
use crate::task::{checkpoints, previews};
use crate::{Worker, crash};

/// How long a finished video is offered to S3 before the attempt counts as failed: a render costs more than the wait.
const UPLOAD_GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// The round is part of the key: two rounds, or two lives of an id, never see each other's videos.
fn prefix(task: &Task) -> String {
    format!("{}{}/", Task::renders(&task.id), task.entry)
}

/// The fence is part of the key: two workers that both believe in their lease never write the same object.
fn key(task: &Task, fence: u64) -> String {
    format!("{}{fence}.mp4", prefix(task))
}

/// Beside the video.
fn poster_key(video: &str) -> String {
    format!("{}.jpg", video.strip_suffix(".mp4").unwrap_or(video))
}

/// A video that an earlier attempt of this round has left in S3 finished.
pub async fn find_artifact(store: &Store, task: &Task) -> anyhow::Result<Option<Artifact>> {
    let objects = store.list(&prefix(task)).await?;
    for object in &objects {
        let fence: Option<u64> = object
            .key
            .strip_prefix(&prefix(task))
            .and_then(|name| name.strip_suffix(".mp4")?.parse().ok());
        if fence.is_none() {
            continue;
        }
        let Some(info) = store.head(&object.key).await? else {
            continue;
        };
        let number = |name: &str| {
            info.metadata
                .get(name)
                .and_then(|text| text.parse::<u32>().ok())
        };
        if let (Some(sha256), Some(engine)) = (info.sha256.clone(), info.metadata.get("engine")) {
            let poster = poster_key(&object.key);
            return Ok(Some(Artifact {
                bucket: store.bucket().to_owned(),
                poster: objects.iter().any(|o| o.key == poster).then_some(poster),
                key: object.key.clone(),
                sha256,
                bytes: info.bytes,
                width: number("width").unwrap_or(task.spec.width),
                height: number("height").unwrap_or(task.spec.height),
                frames: number("frames").unwrap_or(task.spec.frames),
                fps: number("fps").unwrap_or(task.spec.fps),
                engine: engine.clone(),
            }));
        }
    }
    Ok(None)
}

/// What an engine has made.
pub struct Rendered {
    pub video: PathBuf,
    pub poster: Option<PathBuf>,
    /// Its name and version.
    pub engine: String,
}

/// Why a rendered file did not become the task's video.
#[derive(Debug, thiserror::Error)]
enum FinishError {
    /// It could not be read again from the scratch directory.
    #[error(transparent)]
    Unreadable(GateError),
    #[error("the video was refused")]
    Refused(#[source] GateError),
    #[error("the check of the video broke")]
    Check(#[source] JoinError),
    #[error(transparent)]
    Upload(#[from] UploadError),
}

/// Why a video is not in storage.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("another worker has the task")]
    Superseded,
    #[error(transparent)]
    Put(#[from] PutFileError),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("{key} holds something else than what was put there")]
    Other { key: String },
    #[error("{key} is not there after it was put")]
    Missing { key: String },
}

impl FinishError {
    fn class(&self) -> (Blame, FailureKind) {
        match self {
            Self::Unreadable(_) => (Blame::Worker, FailureKind::Worker),
            Self::Refused(_) | Self::Check(_) => (Blame::Task, FailureKind::Gate),
            Self::Upload(_) => (Blame::Surroundings, FailureKind::Storage),
        }
    }
}

impl Worker {
    /// Takes a rendered file all the way.
    pub async fn finish(&self, started: &Recorded, lease: Lease, rendered: &Rendered) {
        let error = match self.store_video(started, &lease, rendered).await {
            Ok(artifact) => {
                self.succeed(started, lease, artifact).await;
                return self.wellness.stored();
            }
            Err(error) => error,
        };
        let task = &started.task;
        let delivery = lease.release().await;
        let (blame, kind) = error.class();
        let message = chain(&error);
        self.failed(started, &delivery, blame, Failure { kind, message })
            .await;
        match blame {
            Blame::Task => {
                let refused = Task {
                    checkpoints_void_to: started.sequence,
                    ..task.clone()
                };
                checkpoints::remove_void(&self.store, &refused).await;
                self.wellness.refused(&task.id);
            }
            Blame::Worker => self.wellness.handed_back(&task.id),
            Blame::Surroundings => {
                self.wellness.doubt_storage();
                self.wellness.handed_back(&task.id);
            }
        }
    }

    /// The gate, then the upload.
    async fn store_video(
        &self,
        started: &Recorded,
        lease: &Lease,
        rendered: &Rendered,
    ) -> Result<Artifact, FinishError> {
        let task = &started.task;
        let facts = check(task, &rendered.video).await?;
        let key = key(task, started.sequence);
        let began = Instant::now();
        self.upload(task, &key, rendered, &facts, lease).await?;
        let took = began.elapsed().as_secs_f64();
        metrics::histogram!("spotreel_worker_upload_seconds").record(took);
        crash::point("after-upload");
        let poster = match &rendered.poster {
            Some(path) => self.upload_poster(task, &key, path).await,
            None => None,
        };
        Ok(Artifact {
            bucket: self.store.bucket().to_owned(),
            key,
            sha256: facts.sha256,
            bytes: facts.bytes,
            width: facts.width,
            height: facts.height,
            frames: facts.frames,
            fps: task.spec.fps,
            engine: rendered.engine.clone(),
            poster,
        })
    }

    /// The video lies in S3: say so, then ack.
    pub async fn succeed(&self, started: &Recorded, lease: Lease, artifact: Artifact) {
        let task = &started.task;
        let step = match task.succeeded(artifact, ambient::now()) {
            Ok(step) => step,
            Err(error) => {
                return tracing::error!(%error, task = %task.id, "video belongs to a task that was not running");
            }
        };
        match self.log.append(&self.append(step, started.sequence)).await {
            Ok(sequence) => {
                crash::point("after-succeeded");
                tracing::info!(task = %task.id, sequence, "succeeded");
                metrics::counter!("spotreel_worker_attempts_total", "outcome" => "succeeded")
                    .increment(1);
                if let Err(error) = lease.delivery.ack().await {
                    tracing::warn!(task = %task.id, %error, "ack failed; the sweeper will delete the work item");
                }
            }
            // The object stays: a misjudged timeout would delete the winner's video. The janitor knows which is named.
            Err(AppendError::Conflict(last)) => {
                let delivery = lease.release().await;
                self.let_go(&delivery, last.as_deref()).await;
            }
            Err(error) => {
                tracing::error!(task = %task.id, error = chain(&error), "writing succeeded failed; the next worker will find the video");
            }
        }
    }

    /// A video without a poster is as good: it is offered once.
    async fn upload_poster(&self, task: &Task, key: &str, path: &Path) -> Option<String> {
        let key = poster_key(key);
        match previews::put(&self.store, &key, path).await {
            Ok(()) => Some(key),
            Err(error) => {
                tracing::warn!(task = %task.id, error = format!("{error:#}"), "poster upload failed");
                None
            }
        }
    }

    async fn upload(
        &self,
        task: &Task,
        key: &str,
        rendered: &Rendered,
        facts: &VideoFacts,
        lease: &Lease,
    ) -> Result<(), UploadError> {
        let metadata: HashMap<String, String> = [
            ("width", facts.width.to_string()),
            ("height", facts.height.to_string()),
            ("frames", facts.frames.to_string()),
            ("fps", task.spec.fps.to_string()),
            ("engine", rendered.engine.clone()),
            ("task", task.id.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let patience = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(200))
            .with_max_interval(Duration::from_secs(15))
            .with_max_elapsed_time(Some(UPLOAD_GIVE_UP_AFTER))
            .build();
        retry(patience, || async {
            // Whoever took the task over decides; our write of the end will be refused.
            if lease.superseded().is_cancelled() {
                return Err(backoff::Error::Permanent(UploadError::Superseded));
            }
            let put = self
                .put_and_look(key, &rendered.video, facts, &metadata)
                .await;
            put.map_err(|error| {
                tracing::warn!(task = %task.id, error = chain(&error), "video upload failed; retrying");
                backoff::Error::transient(error)
            })
        })
        .await
    }

    async fn put_and_look(
        &self,
        key: &str,
        video: &Path,
        facts: &VideoFacts,
        metadata: &HashMap<String, String>,
    ) -> Result<(), UploadError> {
        self.store
            .put_file_if_absent(key, video, &facts.sha256, "video/mp4", metadata.clone())
            .await?;
        let key = key.to_owned();
        match self.store.head(&key).await? {
            Some(info)
                if info.bytes == facts.bytes && info.sha256.as_deref() == Some(&facts.sha256) =>
            {
                Ok(())
            }
            Some(_) => Err(UploadError::Other { key }),
            None => Err(UploadError::Missing { key }),
        }
    }
}

/// The one thread on which videos are decoded. Decoding takes megabytes, tens of them for large videos. The allocator keeps
/// them for each thread that has done it, so on any thread of the runtime the worker would grow for hours.
static GATE: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .thread_name("gate")
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_hours(24 * 365))
        .build()
        .expect("a runtime without I/O and time needs nothing of the system")
});

/// Passes a video through the gate.
async fn check(task: &Task, video: &Path) -> Result<VideoFacts, FinishError> {
    let expectation = Expectation {
        width: task.spec.width,
        height: task.spec.height,
        frames: task.spec.frames,
        fps: task.spec.fps,
    };
    let path = video.to_owned();
    let checked = GATE.spawn_blocking(move || gate::check(&path, &expectation));
    checked
        .await
        .map_err(FinishError::Check)?
        .map_err(|error| match error {
            GateError::Read(_) => FinishError::Unreadable(error),
            error => FinishError::Refused(error),
        })
}

#[cfg(test)]
mod tests {
    use spotreel_api::TaskRequest;
    use spotreel_domain::{Event, TaskId};

    use super::*;

    #[test]
    fn two_lives_of_an_id_have_keys_of_their_own() {
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox".into(),
            ..TaskRequest::default()
        };
        let now = ambient::now();
        let spec = request.validate(now).unwrap().spec;
        let id = TaskId::parse("t1").unwrap();
        let life = |entry: u64| {
            let (event, task) = Task::submit(id.clone(), spec.clone(), String::new(), now);
            assert_eq!(event, Event::Queued);
            task.placed_at(entry, event)
        };
        let (first, second) = (life(1), life(9));
        assert_ne!(prefix(&first), prefix(&second));
        assert_ne!(checkpoints::prefix(&first), checkpoints::prefix(&second));
        // No end of the second deletes what is the first's.
        assert!(!second.owns_object(&key(&first, 2)));
        assert!(second.owns_object(&key(&second, 10)));
    }
}
