//! What a render needs before it begins: the pack, the model in the engine, and in the scratch directory a checkpoint, an
//! image, encoded text.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use spotreel_bus::Recorded;
use spotreel_bus::queue::retry;
use spotreel_domain::chain;
use spotreel_domain::request::TaskSpec;
use spotreel_domain::{Model, Task};
use spotreel_s3::{GetBytesError, RequestError};

use crate::checkpoints::{self, FetchError, Stored};
use crate::engine::protocol::{
    CheckpointPolicy, EmbeddingsFile, LoraFile, PreviewPolicy, RenderRequest, RenderTask,
    ResumeFrom,
};
use crate::engine::{EngineFailure, Load};
use crate::host::{Host, gone};
use crate::packs::Here;
use crate::{Worker, embeddings, loras};

/// How long storage is asked again for a checkpoint or a picture before the task is handed back: a render that begins
/// anew costs more than the wait.
const READ_GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// Intake admits no larger one.
const MAX_IMAGE_BYTES: u64 = 20 << 20;

/// A render that can begin, its model loaded.
pub struct Prepared {
    pub request: RenderRequest,
    pub resumed_from: Option<Stored>,
    /// Where the encoded text is kept, should the engine say it.
    pub embeddings: Option<String>,
    /// Whose pack is not whole yet.
    pub late: Option<Model>,
}

struct Files {
    resume: Option<(ResumeFrom, Stored)>,
    image: Option<PathBuf>,
    loras: Vec<LoraFile>,
    embeddings: Option<EmbeddingsFile>,
    work_dir: PathBuf,
    out_dir: PathBuf,
}

impl Prepared {
    /// Takes checkpoints from the front until one can be used. `profile`: how the model is to lie in memory.
    pub async fn new(
        worker: &Worker,
        host: &mut Host,
        started: &Recorded,
        checkpoints: &mut VecDeque<Stored>,
        profile: Option<&str>,
        dir: &Path,
    ) -> Result<Self, EngineFailure> {
        let task = &started.task;
        let model = task.spec.model;
        // Before the minutes of a load, and even those of a pull.
        if let Some(failure) = host.cannot(&task.spec) {
            return Err(failure);
        }
        let pack = match &worker.packs {
            Some(keeper) => Some(
                keeper
                    .ready(model, worker.config.engine.deadlines.load)
                    .await?,
            ),
            None => None,
        };
        let index = pack.as_ref().map(|here| &here.pack.index);
        let lacking = host.lacks_fast(&task.spec, index);
        if let Some(failure) = lacking.or_else(|| host.lacks_loras(&task.spec)) {
            return Err(failure);
        }
        let key = index.and_then(|index| embeddings::key(host.hello()?, index, &task.spec));
        let format = host
            .hello()
            .and_then(|hello| hello.checkpoint_format.clone());
        let files = Files::gather(
            worker,
            task,
            checkpoints,
            format.as_deref(),
            key.as_deref(),
            dir,
        );
        let files = files.await?;
        let load = load(worker, model, profile, pack.as_ref());
        host.load(model, load).await?;
        let (resume, resumed_from) = files.resume.unzip();
        Ok(Self {
            resumed_from,
            embeddings: key,
            late: pack.filter(|here| !here.arriving.is_empty()).map(|_| model),
            request: RenderRequest {
                id: format!("{}-{}", task.id, started.sequence),
                attempt: task.attempts_total,
                task: render_task(&task.spec, files.image, files.loras),
                work_dir: files.work_dir,
                out_dir: files.out_dir,
                resume,
                embeddings: files.embeddings,
                checkpoint: CheckpointPolicy {
                    every_steps: worker.config.checkpoint.every_steps,
                    min_interval_s: worker.config.checkpoint.min_interval.as_secs_f64(),
                },
                preview: task.spec.preview.then_some(PreviewPolicy {
                    every_steps: worker.config.preview.every_steps,
                }),
            },
        })
    }
}

fn load(worker: &Worker, model: Model, profile: Option<&str>, pack: Option<&Here>) -> Load {
    let configured = worker.config.engine.profile.as_str();
    let configured = Some(configured).filter(|profile| !profile.is_empty());
    let load = Load {
        profile: profile.or(configured).map(str::to_owned),
        ..Load::of(model.as_str())
    };
    match (&worker.packs, pack) {
        (Some(keeper), Some(here)) => {
            keeper.loaded(model);
            Load {
                pack_dir: Some(keeper.dir().to_owned()),
                verified: true,
                arriving: here.arriving.clone(),
                ..load
            }
        }
        _ => load,
    }
}

impl Files {
    async fn gather(
        worker: &Worker,
        task: &Task,
        checkpoints: &mut VecDeque<Stored>,
        format: Option<&str>,
        embeddings_key: Option<&str>,
        dir: &Path,
    ) -> Result<Self, EngineFailure> {
        let (work_dir, out_dir) = (dir.join("work"), dir.join("out"));
        for dir in [&work_dir, &out_dir] {
            let made = tokio::fs::create_dir_all(dir).await;
            made.map_err(|error| scratch(dir, &error))?;
        }
        let mut resume = None;
        while let Some(stored) = checkpoints.pop_front() {
            let fetched = retry(patience(), || async {
                checkpoints::fetch(&worker.store, &stored, &task.spec, format, &work_dir)
                    .await
                    .map_err(|error| match error {
                        FetchError::Storage(error) => passing(error, FetchError::Storage),
                        other => backoff::Error::Permanent(other),
                    })
            });
            match fetched.await {
                Ok(from) => {
                    resume = Some((from, stored));
                    break;
                }
                Err(FetchError::Unusable(why)) => {
                    tracing::warn!(task = %task.id, key = stored.key, error = why, "checkpoint is not usable");
                }
                Err(FetchError::Storage(error)) => {
                    return Err(EngineFailure::of_storage(format!(
                        "checkpoint {}: {}",
                        stored.key,
                        chain(&error)
                    )));
                }
                Err(FetchError::Scratch { path, source }) => return Err(scratch(&path, &source)),
            }
        }
        let image = match &task.spec.image {
            None => None,
            Some(key) => {
                let path = work_dir.join("image");
                let bytes = image(worker, key).await?;
                let written = tokio::fs::write(&path, bytes).await;
                written.map_err(|error| scratch(&path, &error))?;
                Some(path)
            }
        };
        let loras = loras::fetch(worker, &task.spec).await?;
        // A checkpoint has the text in it.
        let embeddings = match embeddings_key.filter(|_| resume.is_none()) {
            None => None,
            Some(key) => embeddings::fetch(&worker.store, key, &work_dir).await,
        };
        Ok(Self {
            resume,
            image,
            loras,
            embeddings,
            work_dir,
            out_dir,
        })
    }
}

/// The picture of a task. One that is not there, or is too large, is the task's own fault.
async fn image(worker: &Worker, key: &str) -> Result<Bytes, EngineFailure> {
    let got = retry(patience(), || async {
        let got = worker.store.get_bytes(key, MAX_IMAGE_BYTES).await;
        got.map_err(|error| match error {
            GetBytesError::Request(error) => passing(error, GetBytesError::Request),
            other => backoff::Error::Permanent(other),
        })
    });
    match got.await {
        Ok(bytes) => Ok(bytes),
        Err(GetBytesError::Request(error)) => {
            let message = format!("image {key}: {}", chain(&error));
            Err(EngineFailure::of_storage(message))
        }
        Err(error) => Err(gone(&chain(&error))),
    }
}

pub(crate) fn scratch(path: &Path, error: &std::io::Error) -> EngineFailure {
    EngineFailure::of_scratch(format!("cannot write {}: {error}", path.display()))
}

/// What time may mend is tried again.
fn passing<E>(error: RequestError, wrap: impl FnOnce(RequestError) -> E) -> backoff::Error<E> {
    match error.retryable() {
        true => backoff::Error::transient(wrap(error)),
        false => backoff::Error::Permanent(wrap(error)),
    }
}

pub(crate) fn patience() -> backoff::ExponentialBackoff {
    backoff::ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(200))
        .with_max_interval(Duration::from_secs(10))
        .with_max_elapsed_time(Some(READ_GIVE_UP_AFTER))
        .build()
}

fn render_task(spec: &TaskSpec, image: Option<PathBuf>, loras: Vec<LoraFile>) -> RenderTask {
    // The engine names the high-noise expert's guidance first, as diffusers does.
    let (guidance, guidance_2) = match spec.guidance_high_noise {
        Some(high) => (high, Some(spec.guidance)),
        None => (spec.guidance, None),
    };
    RenderTask {
        model: spec.model.as_str().into(),
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        width: spec.width,
        height: spec.height,
        frames: spec.frames,
        fps: spec.fps,
        quality: spec.quality.map(|tier| tier.as_str().to_owned()),
        steps: spec.steps,
        guidance,
        guidance_2,
        shift: spec.shift,
        seed: spec.seed,
        image,
        loras,
    }
}
