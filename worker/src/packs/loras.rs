//! LoRAs that tasks name, as files on this machine: fetched from the bucket of the packs, and kept for the tasks that follow.

use std::path::{Path, PathBuf};

use spotreel_domain::Model;
use spotreel_domain::model::Expert;
use spotreel_domain::task::{TaskLora, TaskSpec};
use spotreel_packs::{LoraRemoteError, PublishedLora, StoredLora, transformer_of};
use spotreel_s3::GetFileError;

use crate::engine::protocol::LoraFile;
use crate::machine::scratch::{self, ScratchError};
use crate::{Worker, storage};

/// Files that are kept: those of two tasks with three LoRAs for two experts. Each has 1 GiB at most.
const KEPT: usize = 12;

/// Why a LoRA of a task is not on this machine.
#[derive(Debug, thiserror::Error)]
pub enum LoraFetchError {
    /// Storage does not answer, or refuses what every worker needs.
    #[error("LoRA {name}")]
    Storage {
        name: String,
        source: LoraRemoteError,
    },
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("the LoRA {name:?} cannot be used")]
    Unusable {
        name: String,
        source: LoraRemoteError,
    },
    #[error("the LoRA {name:?} is one of {model}")]
    OtherModel { name: String, model: Model },
    #[error("the LoRA {name:?} is another than when the task was accepted: submit the task again")]
    Changed { name: String },
}

impl LoraFetchError {
    fn new(lora: &TaskLora, error: LoraRemoteError) -> Self {
        let name = lora.name.clone();
        match error {
            LoraRemoteError::Fetch {
                source: GetFileError::File { path, source },
                ..
            } => ScratchError { path, source }.into(),
            source if source.retryable() || matches!(source, LoraRemoteError::Get { .. }) => {
                Self::Storage { name, source }
            }
            source => Self::Unusable { name, source },
        }
    }
}

/// What the task names, in its order. One that is not there, or not as it was when the task was accepted, is the task's
/// own fault.
pub async fn fetch(worker: &Worker, spec: &TaskSpec) -> Result<Vec<LoraFile>, LoraFetchError> {
    let dir = worker.scratch.join("loras");
    let mut files = Vec::new();
    for lora in &spec.loras {
        let published = published(worker, spec, lora).await?;
        for (transformer, stored) in &published.index.files {
            let expert = match spec.model.has_two_experts() {
                true => Expert::ALL
                    .into_iter()
                    .find(|e| transformer_of(*e) == transformer),
                false => None,
            };
            if lora.expert.is_some() && lora.expert != expert {
                continue;
            }
            files.push(LoraFile {
                name: lora.name.clone(),
                path: bring(worker, &dir, lora, stored).await?,
                sha256: stored.sha256.clone(),
                strength: lora.strength,
                expert: expert.map(|expert| expert.as_str().to_owned()),
            });
        }
    }
    forget(&dir, &files).await;
    Ok(files)
}

async fn published(
    worker: &Worker,
    spec: &TaskSpec,
    lora: &TaskLora,
) -> Result<PublishedLora, LoraFetchError> {
    let found = storage::read(LoraRemoteError::retryable, || worker.loras.lora(&lora.name));
    let found = found
        .await
        .map_err(|error| LoraFetchError::new(lora, error))?;
    let name = lora.name.clone();
    if found.index.model != spec.model {
        let model = found.index.model;
        return Err(LoraFetchError::OtherModel { name, model });
    }
    if lora
        .sha256
        .as_ref()
        .is_some_and(|known| *known != found.sha256)
    {
        return Err(LoraFetchError::Changed { name });
    }
    Ok(found)
}

/// A file that is here already was checked when it came.
async fn bring(
    worker: &Worker,
    dir: &Path,
    lora: &TaskLora,
    stored: &StoredLora,
) -> Result<PathBuf, LoraFetchError> {
    let path = dir.join(format!("{}.safetensors", stored.sha256));
    if tokio::fs::try_exists(&path).await.unwrap_or(false) {
        return Ok(path);
    }
    let made = tokio::fs::create_dir_all(dir).await;
    made.map_err(scratch::at(dir))?;
    let part = path.with_extension("part");
    let fetched = storage::read(LoraRemoteError::retryable, || {
        worker.loras.fetch_lora(&lora.name, stored, &part)
    });
    fetched
        .await
        .map_err(|error| LoraFetchError::new(lora, error))?;
    let named = tokio::fs::rename(&part, &path).await;
    named.map_err(scratch::at(&path))?;
    Ok(path)
}

/// Removes what is beyond the bound, oldest first, but what this task needs.
async fn forget(dir: &Path, needed: &[LoraFile]) {
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else {
        return;
    };
    let mut others = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        if needed.iter().all(|file| file.path != path)
            && let Ok(about) = entry.metadata().await
        {
            others.push((about.modified().ok(), path));
        }
    }
    others.sort();
    let surplus = (others.len() + needed.len()).saturating_sub(KEPT);
    for (_, path) in others.into_iter().take(surplus) {
        // Fetched again when it is wanted.
        let _ = tokio::fs::remove_file(path).await;
    }
}
