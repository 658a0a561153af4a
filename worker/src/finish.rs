//! From the engine's file to the task's video: gate, S3, `succeeded`, ack, in this order.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_bus::queue::retry;
use spotreel_bus::{AppendError, Lease, Recorded};
use spotreel_domain::Task;
use spotreel_domain::chain;
use spotreel_domain::task::{Artifact, Failure, FailureKind};
use spotreel_s3::Store;

use crate::checkpoints;
use crate::gate::{self, Expectation, GateError, VideoFacts};
use crate::{Worker, crash, previews};

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

/// What became of a rendered file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It lies in S3, and the task names it or is somebody else's.
    Stored,
    /// The gate refused it.
    Refused,
    /// It could not be read again from the scratch directory.
    Unreadable,
    /// Storage did not take it.
    Hindered,
}

/// What an engine has made.
pub struct Rendered<'a> {
    pub video: &'a Path,
    pub poster: Option<&'a Path>,
    /// Its name and version.
    pub engine: &'a str,
}

impl Worker {
    /// Takes a rendered file all the way.
    pub async fn finish(&self, started: &Recorded, lease: Lease, rendered: Rendered<'_>) -> Finish {
        let Rendered {
            video,
            poster,
            engine,
        } = rendered;
        let task = &started.task;
        let facts = match self.check(task, video).await {
            Ok(facts) => facts,
            Err(Failure {
                kind: FailureKind::Worker,
                message,
            }) => {
                let kind = FailureKind::Worker;
                let delivery = lease.release().await;
                self.decline(started, &delivery, Failure { kind, message })
                    .await;
                return Finish::Unreadable;
            }
            Err(failure) => {
                let delivery = lease.release().await;
                self.fail(started, &delivery, failure).await;
                let refused = Task {
                    checkpoints_void_to: started.sequence,
                    ..task.clone()
                };
                checkpoints::remove_void(&self.store, &refused).await;
                return Finish::Refused;
            }
        };
        let key = key(task, started.sequence);
        if let Err(message) = self.upload(task, &key, video, &facts, engine, &lease).await {
            let kind = FailureKind::Storage;
            let delivery = lease.release().await;
            self.hinder(started, &delivery, Failure { kind, message })
                .await;
            return Finish::Hindered;
        }
        crash::point("after-upload");
        let poster = match poster {
            Some(path) => self.upload_poster(task, &key, path).await,
            None => None,
        };
        let artifact = Artifact {
            bucket: self.store.bucket().to_owned(),
            key,
            sha256: facts.sha256,
            bytes: facts.bytes,
            width: facts.width,
            height: facts.height,
            frames: facts.frames,
            fps: task.spec.fps,
            engine: engine.to_owned(),
            poster,
        };
        self.succeed(started, lease, artifact).await;
        Finish::Stored
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

    async fn check(&self, task: &Task, video: &Path) -> Result<VideoFacts, Failure> {
        let expectation = Expectation {
            width: task.spec.width,
            height: task.spec.height,
            frames: task.spec.frames,
            fps: task.spec.fps,
        };
        let path = video.to_owned();
        let checked = tokio::task::spawn_blocking(move || gate::check(&path, &expectation)).await;
        let (kind, message) = match checked {
            Ok(Ok(facts)) => return Ok(facts),
            Ok(Err(error @ GateError::Read(_))) => (FailureKind::Worker, chain(&error)),
            Ok(Err(error)) => {
                let message = format!("the video was refused: {}", chain(&error));
                (FailureKind::Gate, message)
            }
            Err(error) => {
                let message = format!("the check of the video broke: {error}");
                (FailureKind::Gate, message)
            }
        };
        Err(Failure { kind, message })
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
        video: &Path,
        facts: &VideoFacts,
        engine: &str,
        lease: &Lease,
    ) -> Result<(), String> {
        let metadata: HashMap<String, String> = [
            ("width", facts.width.to_string()),
            ("height", facts.height.to_string()),
            ("frames", facts.frames.to_string()),
            ("fps", task.spec.fps.to_string()),
            ("engine", engine.to_owned()),
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
                let error = "another worker has the task".to_owned();
                return Err(backoff::Error::Permanent(error));
            }
            let put = self.put_and_look(key, video, facts, &metadata).await;
            put.map_err(|error| {
                let error = format!("{error:#}");
                tracing::warn!(task = %task.id, error, "video upload failed; retrying");
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
    ) -> anyhow::Result<()> {
        self.store
            .put_file_if_absent(key, video, &facts.sha256, "video/mp4", metadata.clone())
            .await?;
        match self.store.head(key).await? {
            Some(info)
                if info.bytes == facts.bytes && info.sha256.as_deref() == Some(&facts.sha256) =>
            {
                Ok(())
            }
            Some(_) => anyhow::bail!("{key} holds something else than what was put there"),
            None => anyhow::bail!("{key} is not there after it was put"),
        }
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::{Event, TaskId, TaskRequest};

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
