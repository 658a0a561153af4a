//! What a render needs before it begins: the pack, the model in the engine, and in the scratch directory a checkpoint, an
//! image, encoded text.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use spotreel_bus::Recorded;
use spotreel_domain::request::TaskSpec;
use spotreel_domain::{Model, Task};
use spotreel_s3::GetBytesError;

use crate::engine::Load;
use crate::engine::protocol::{
    CheckpointPolicy, LoraFile, PreviewPolicy, RenderRequest, RenderTask, ResumeFrom,
};
use crate::machine::host::Host;
use crate::machine::scratch;
use crate::machine::suitability::Unsuitable;
use crate::packs::{ReadyPack, embeddings, loras};
use crate::task::checkpoints::{self, FetchError, Stored};
use crate::task::error::AttemptError;
use crate::{Worker, storage};

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

impl Prepared {
    /// Takes checkpoints from the front until one can be used. `profile`: how the model is to lie in memory.
    pub async fn new(
        worker: &Worker,
        host: &mut Host,
        started: &Recorded,
        checkpoints: &mut VecDeque<Stored>,
        profile: Option<&str>,
        dir: &Path,
    ) -> Result<Self, AttemptError> {
        let task = &started.task;
        let spec = &task.spec;
        // Before the minutes of a load, and even those of a pull.
        host.check_size(spec).map_err(Unsuitable::from)?;
        let patience = worker.config.engine.deadlines.load;
        let pack = match &worker.packs {
            Some(cache) => Some(cache.ready(spec.model, patience).await?),
            None => None,
        };
        let index = pack.as_ref().map(|here| &here.pack.index);
        host.check_offer(spec, index)?;

        let (work_dir, out_dir) = (dir.join("work"), dir.join("out"));
        for dir in [&work_dir, &out_dir] {
            let made = tokio::fs::create_dir_all(dir).await;
            made.map_err(scratch::at(dir))?;
        }
        let hello = host.hello();
        let key = index.and_then(|index| embeddings::key(hello?, index, spec));
        let format = hello.and_then(|hello| hello.checkpoint_format.as_deref());
        let resume = newest_usable(worker, task, checkpoints, format, &work_dir).await?;
        let image = image(worker, spec, &work_dir).await?;
        let loras = loras::fetch(worker, spec).await?;
        // A checkpoint has the text in it.
        let embeddings = match key.as_deref().filter(|_| resume.is_none()) {
            None => None,
            Some(key) => embeddings::fetch(&worker.store, key, &work_dir).await,
        };
        let load = load(worker, spec.model, profile, pack.as_ref());
        host.load(spec.model, load).await?;

        let (resume, resumed_from) = resume.unzip();
        let is_late = pack.is_some_and(|here| !here.arriving.is_empty());
        Ok(Self {
            resumed_from,
            embeddings: key,
            late: is_late.then_some(spec.model),
            request: RenderRequest {
                id: format!("{}-{}", task.id, started.sequence),
                attempt: task.attempts_total,
                task: render_task(spec, image, loras),
                work_dir,
                out_dir,
                resume,
                embeddings,
                checkpoint: CheckpointPolicy {
                    every_steps: worker.config.checkpoint.every_steps,
                    min_interval_s: worker.config.checkpoint.min_interval.as_secs_f64(),
                },
                preview: spec.preview.then_some(PreviewPolicy {
                    every_steps: worker.config.preview.every_steps,
                }),
            },
        })
    }
}

fn load(worker: &Worker, model: Model, profile: Option<&str>, pack: Option<&ReadyPack>) -> Load {
    let configured = worker.config.engine.profile.as_str();
    let configured = Some(configured).filter(|profile| !profile.is_empty());
    let load = Load {
        profile: profile.or(configured).map(str::to_owned),
        ..Load::of(model.as_str())
    };
    match (&worker.packs, pack) {
        (Some(cache), Some(here)) => {
            cache.loaded(model);
            Load {
                pack_dir: Some(cache.dir().to_owned()),
                verified: true,
                arriving: here.arriving.clone(),
                ..load
            }
        }
        _ => load,
    }
}

/// Brings the first checkpoint that can be used.
async fn newest_usable(
    worker: &Worker,
    task: &Task,
    checkpoints: &mut VecDeque<Stored>,
    format: Option<&str>,
    work_dir: &Path,
) -> Result<Option<(ResumeFrom, Stored)>, AttemptError> {
    while let Some(stored) = checkpoints.pop_front() {
        let fetched = storage::read(FetchError::retryable, || {
            checkpoints::fetch(&worker.store, &stored, &task.spec, format, work_dir)
        });
        match fetched.await {
            Ok(from) => return Ok(Some((from, stored))),
            Err(FetchError::Unusable(why)) => {
                tracing::warn!(task = %task.id, key = stored.key, error = why, "checkpoint is not usable");
            }
            Err(FetchError::Storage(source)) => {
                let key = stored.key;
                return Err(AttemptError::Checkpoint { key, source });
            }
            Err(FetchError::Scratch(error)) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The picture of a task. One that is not there, or is too large, is the task's own fault.
async fn image(
    worker: &Worker,
    spec: &TaskSpec,
    work_dir: &Path,
) -> Result<Option<PathBuf>, AttemptError> {
    let Some(key) = &spec.image else {
        return Ok(None);
    };
    let got = storage::read(GetBytesError::retryable, || {
        worker.store.get_bytes(key, MAX_IMAGE_BYTES)
    });
    let bytes = got.await.map_err(|error| match error {
        GetBytesError::Request(source) => {
            let key = key.clone();
            AttemptError::Image { key, source }
        }
        error => AttemptError::BadImage(error),
    })?;
    let path = work_dir.join("image");
    let written = tokio::fs::write(&path, bytes).await;
    written.map_err(scratch::at(&path))?;
    Ok(Some(path))
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
