//! Checkpoints in S3: their keys, the newest one, and the upload during the render.

pub mod inspect;

use std::collections::HashMap;
use std::path::Path;

use spotreel_domain::Task;
use spotreel_domain::chain;
use spotreel_domain::task::TaskSpec;
use spotreel_s3::{GetFileError, RequestError, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::crash;
use crate::engine::protocol::{CHECKPOINT_FORMAT, CheckpointInfo, ResumeFrom};
use crate::machine::scratch::ScratchError;

/// Kept of one round: the newest, and the one before it should the newest prove unusable.
const KEPT: usize = 2;

/// A checkpoint that lies in S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub next_step: u32,
    /// The start that made it.
    pub fence: u64,
}

/// Checkpoints of another round, or of another life of the id, are another render's.
pub(crate) fn prefix(task: &Task) -> String {
    format!("{}{}/", Task::checkpoints(&task.id), task.entry)
}

fn key(task: &Task, fence: u64, next_step: u32) -> String {
    format!("{}{next_step:05}-{fence}.ckpt", prefix(task))
}

fn parse(key: String) -> Option<Stored> {
    let name = key.rsplit('/').next()?.strip_suffix(".ckpt")?;
    let (step, fence) = name.split_once('-')?;
    Some(Stored {
        next_step: step.parse().ok()?,
        fence: fence.parse().ok()?,
        key,
    })
}

/// All of the task's round that may be gone on from, newest first.
pub async fn list(store: &Store, task: &Task) -> anyhow::Result<Vec<Stored>> {
    let mut found = all(store, task).await?;
    found.retain(|stored| stored.fence > task.checkpoints_void_to);
    found.sort_by(|a, b| {
        b.next_step
            .cmp(&a.next_step)
            .then_with(|| b.key.cmp(&a.key))
    });
    Ok(found)
}

/// Why a checkpoint was not brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No engine could go on from it, or it is gone: the one before it may do.
    #[error("the checkpoint cannot be used: {0}")]
    Unusable(String),
    #[error(transparent)]
    Storage(RequestError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

impl FetchError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Storage(error) if error.retryable())
    }
}

async fn all(store: &Store, task: &Task) -> anyhow::Result<Vec<Stored>> {
    let listed = store.list(&prefix(task)).await?;
    let keys = listed.into_iter().map(|object| object.key);
    Ok(keys.filter_map(parse).collect())
}

/// Removes those that the task says are not used any more. Nothing depends on it.
pub async fn remove_void(store: &Store, task: &Task) {
    for stored in all(store, task).await.unwrap_or_default() {
        if stored.fence <= task.checkpoints_void_to {
            remove(store, &stored).await;
        }
    }
}

/// Brings a checkpoint here, for an engine that says of its checkpoints that they are of `format`. One that no engine
/// could go on from is removed.
pub async fn fetch(
    store: &Store,
    stored: &Stored,
    spec: &TaskSpec,
    format: Option<&str>,
    work_dir: &Path,
) -> Result<ResumeFrom, FetchError> {
    let path = work_dir.join("resume.ckpt");
    let unusable = |error: &dyn std::error::Error| FetchError::Unusable(chain(error));
    let info = match store.get_to_file(&stored.key, &path).await {
        Ok(info) => info,
        Err(GetFileError::Request(error)) => return Err(FetchError::Storage(error)),
        Err(GetFileError::File { path, source }) => {
            return Err(ScratchError { path, source }.into());
        }
        Err(error) => {
            if let GetFileError::Corrupt { .. } | GetFileError::Unverifiable { .. } = error {
                remove(store, stored).await;
            }
            return Err(unusable(&error));
        }
    };
    let sha256 = info
        .sha256
        .ok_or_else(|| FetchError::Unusable("it has no hash".into()))?;
    if format == Some(CHECKPOINT_FORMAT) {
        let (file, spec, next_step) = (path.clone(), spec.clone(), stored.next_step);
        let look = move || inspect::inspect(&file, &spec, next_step);
        let looked = tokio::task::spawn_blocking(look).await;
        if let Err(unfit) = looked.map_err(|error| unusable(&error))? {
            remove(store, stored).await;
            return Err(unusable(&unfit));
        }
    }
    Ok(ResumeFrom { path, sha256 })
}

/// Nobody shall try it again.
pub async fn remove(store: &Store, stored: &Stored) {
    metrics::counter!("spotreel_worker_checkpoints_refused_total").increment(1);
    if let Err(error) = store.delete(&stored.key).await {
        tracing::debug!(key = stored.key, %error, "deleting an unusable checkpoint failed");
    }
}

/// Uploads checkpoints one after the other while the render goes on. When the network is slower than the render, the
/// ones in between are left out: only the newest is worth its bytes.
pub struct Uploads {
    sender: mpsc::UnboundedSender<CheckpointInfo>,
    task: JoinHandle<u32>,
}

impl Uploads {
    pub fn begin(store: Store, task: &Task, fence: u64) -> Self {
        // Unbounded in name: a render has at most as many checkpoints as steps.
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(upload_all(store, task.clone(), fence, receiver));
        Self { sender, task }
    }

    pub fn offer(&self, checkpoint: CheckpointInfo) {
        let _ = self.sender.send(checkpoint);
    }

    /// Waits until the newest is in S3; says which step that is.
    pub async fn finish(self) -> u32 {
        drop(self.sender);
        self.task.await.unwrap_or_default()
    }

    pub fn abandon(self) {
        self.task.abort();
    }
}

async fn upload_all(
    store: Store,
    task: Task,
    fence: u64,
    mut receiver: mpsc::UnboundedReceiver<CheckpointInfo>,
) -> u32 {
    let mut done: Vec<String> = Vec::new();
    let mut newest = 0;
    while let Some(mut checkpoint) = receiver.recv().await {
        while let Ok(newer) = receiver.try_recv() {
            let _ = tokio::fs::remove_file(&checkpoint.path).await;
            checkpoint = newer;
        }
        let key = key(&task, fence, checkpoint.next_step);
        let sent = store
            .put_file_if_absent(
                &key,
                &checkpoint.path,
                &checkpoint.sha256,
                "application/octet-stream",
                HashMap::new(),
            )
            .await;
        let _ = tokio::fs::remove_file(&checkpoint.path).await;
        match sent {
            Ok(_) => {
                tracing::debug!(task = %task.id, step = checkpoint.next_step, "checkpoint uploaded");
                metrics::counter!("spotreel_worker_checkpoints_total").increment(1);
                newest = checkpoint.next_step;
                done.push(key);
                crash::point("after-checkpoint");
            }
            // The render goes on; the next checkpoint may get through.
            Err(error) => {
                tracing::warn!(task = %task.id, error = %chain(&error), "checkpoint upload failed");
            }
        }
        while done.len() > KEPT {
            let (store, old) = (store.clone(), done.remove(0));
            // Nobody who waits for the newest has to wait for this.
            tokio::spawn(async move { drop(store.delete(&old).await) });
        }
    }
    newest
}
