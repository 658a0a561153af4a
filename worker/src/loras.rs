//! LoRAs that tasks name, as files on this machine: fetched from the bucket of the packs, and kept for the tasks that follow.

use std::path::{Path, PathBuf};

use spotreel_bus::queue::retry;
use spotreel_domain::chain;
use spotreel_domain::model::Expert;
use spotreel_domain::request::{TaskLora, TaskSpec};
use spotreel_packs::{LoraFile as Stored, LoraRemoteError, PublishedLora, transformer_of};
use spotreel_s3::GetFileError;

use crate::Worker;
use crate::engine::EngineFailure;
use crate::engine::protocol::{ErrorKind, LoraFile};
use crate::host::gone;
use crate::prepare::{patience, scratch};

/// Files that are kept: those of two tasks with three LoRAs for two experts. Each has 1 GiB at most.
const KEPT: usize = 12;

/// What the task names, in its order. One that is not there, or not as it was when the task was accepted, is the task's
/// own fault.
pub async fn fetch(worker: &Worker, spec: &TaskSpec) -> Result<Vec<LoraFile>, EngineFailure> {
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
) -> Result<PublishedLora, EngineFailure> {
    let found = retry(patience(), || async {
        worker.loras.lora(&lora.name).await.map_err(passing)
    });
    let found = found.await.map_err(|error| failure(lora, &error))?;
    if found.index.model != spec.model {
        return Err(unfit(lora, &format!("is one of {}", found.index.model)));
    }
    if lora
        .sha256
        .as_ref()
        .is_some_and(|known| *known != found.sha256)
    {
        return Err(unfit(
            lora,
            "is another than when the task was accepted: submit the task again",
        ));
    }
    Ok(found)
}

/// A file that is here already was checked when it came.
async fn bring(
    worker: &Worker,
    dir: &Path,
    lora: &TaskLora,
    stored: &Stored,
) -> Result<PathBuf, EngineFailure> {
    let path = dir.join(format!("{}.safetensors", stored.sha256));
    if tokio::fs::try_exists(&path).await.unwrap_or(false) {
        return Ok(path);
    }
    let made = tokio::fs::create_dir_all(dir).await;
    made.map_err(|error| scratch(dir, &error))?;
    let part = path.with_extension("part");
    let fetched = retry(patience(), || async {
        let fetched = worker.loras.fetch_lora(&lora.name, stored, &part).await;
        fetched.map_err(passing)
    });
    fetched.await.map_err(|error| failure(lora, &error))?;
    let named = tokio::fs::rename(&part, &path).await;
    named.map_err(|error| scratch(&path, &error))?;
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

fn passing(error: LoraRemoteError) -> backoff::Error<LoraRemoteError> {
    match error.retryable() {
        true => backoff::Error::transient(error),
        false => backoff::Error::Permanent(error),
    }
}

fn failure(lora: &TaskLora, error: &LoraRemoteError) -> EngineFailure {
    match error {
        LoraRemoteError::Fetch {
            source: GetFileError::File { path, source },
            ..
        } => scratch(path, source),
        error if error.retryable() => {
            EngineFailure::of_storage(format!("LoRA {}: {}", lora.name, chain(error)))
        }
        LoraRemoteError::Get { .. } => {
            EngineFailure::of_storage(format!("LoRA {}: {}", lora.name, chain(error)))
        }
        error => unfit(lora, &format!("cannot be used: {}", chain(error))),
    }
}

fn unfit(lora: &TaskLora, why: &str) -> EngineFailure {
    EngineFailure {
        kind: ErrorKind::Invalid,
        code: "lora".into(),
        ..gone(&format!("the LoRA {:?} {why}", lora.name))
    }
}
