//! The main loop: take, begin, render, and hand the finished file on while the next task is taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::Context;
use spotreel_bus::{Lease, Recorded, names, trace};
use spotreel_domain::api::Progress;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::Worker;
use crate::attempt::Begun;
use crate::checkpoints::{self, Uploads};
use crate::crash;
use crate::engine::protocol::{
    CheckpointPolicy, ErrorKind, Phase, RenderRequest, RenderTask, ResumeFrom,
};
use crate::engine::{EngineFailure, Render, RenderEvent};
use crate::host::{self, Host};
use crate::take::{Take, Taken};

/// Videos on their way to S3 while the next one renders. With one, memory and disk stay bounded, and an upload that is
/// slower than a render holds the renders back.
const UPLOADS_AT_ONCE: usize = 1;
/// Intake admits no larger one.
const MAX_IMAGE_BYTES: u64 = 20 << 20;
/// An engine that was told to stop its render has so long to say that it did.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

enum End {
    Finished { video: PathBuf },
    Failed(EngineFailure),
    Superseded,
    Interrupted,
}

pub async fn run(worker: Arc<Worker>, mut take: Take, ctx: Context) -> anyhow::Result<()> {
    let mut host = Host::new(worker.config.engine.clone(), ctx.health.clone());
    let uploading = Arc::new(Semaphore::new(UPLOADS_AT_ONCE));
    let mut given_up = None;
    while host.ready(&ctx.stopping).await {
        let Some(taken) = take
            .next(host.loaded(), worker.config.pull_wait, &ctx.stopping)
            .await
        else {
            break;
        };
        crash::point("after-lease");
        let span = tracing::info_span!(
            "attempt",
            worker = worker.name,
            task = tracing::field::Empty
        );
        trace::adopt(&span, &taken.delivery.headers);
        let failure = attempt(&worker, &mut host, taken, &uploading, &ctx)
            .instrument(span)
            .await;
        if let Some(EngineFailure {
            kind: ErrorKind::Model,
            ..
        }) = failure
        {
            given_up = stop_taking(&mut take, &host, &ctx);
        }
        if !host.judge(failure.as_ref()).await {
            given_up = Some("the accelerator failed again after the engine was started anew");
        }
        if given_up.is_some() {
            break;
        }
    }
    worker.presence.update(|presence| presence.stopping = true);
    host.discard().await;
    // The last upload ends first: what was rendered is not thrown away.
    let _ = uploading.acquire().await;
    match given_up {
        Some(reason) => anyhow::bail!("{reason}; give this machine up"),
        None => Ok(()),
    }
}

/// Weights that are missing or broken here fail every task of the model: leave them to other workers.
fn stop_taking(take: &mut Take, host: &Host, ctx: &Context) -> Option<&'static str> {
    let model = host.loaded()?;
    tracing::error!(%model, "the model's files are unusable here; its tasks are left to other workers");
    ctx.health
        .set("model", Err(format!("{model} is unusable on this machine")));
    take.forget(model);
    take.is_empty().then_some("no model is usable")
}

/// One work item, to its end or to the hands of the upload. Returns how the engine failed, if it did.
async fn attempt(
    worker: &Arc<Worker>,
    host: &mut Host,
    taken: Taken,
    uploading: &Arc<Semaphore>,
    ctx: &Context,
) -> Option<EngineFailure> {
    let Taken { delivery, ack_wait } = taken;
    let begun = worker.begin(&delivery).await?;
    let started = begun.started.clone();
    let task = &started.task;
    tracing::Span::current().record("task", task.id.as_str());
    tracing::info!(task = %task.id, model = %task.spec.model, from_step = begun.checkpoints.first().map_or(0, |c| c.next_step), "started");
    let lease = Lease::hold(
        worker.log.clone(),
        delivery,
        task.id.clone(),
        started.sequence,
        ack_wait,
    );
    if let Some(artifact) = begun.finished.clone() {
        worker.succeed(&started, lease, artifact).await;
        return None;
    }
    worker.presence.update(|presence| {
        (presence.task, presence.step, presence.steps) = (task.id.to_string(), 0, task.spec.steps);
    });
    let dir = worker
        .scratch
        .join(format!("{}-{}", task.id, started.sequence));
    let end = render(worker, host, &begun, &lease, &dir, &ctx.stopping).await;
    worker.presence.update(|presence| presence.task.clear());
    let failure = match end {
        End::Finished { video } => {
            let permit = Arc::clone(uploading).acquire_owned().await;
            let worker = Arc::clone(worker);
            let engine = host.engine_name();
            let upload = async move {
                worker.finish(&started, lease, &video, &engine).await;
                remove(&dir).await;
                drop(permit);
            };
            ctx.tasks.spawn(upload.in_current_span());
            return None;
        }
        End::Failed(failure) => {
            worker
                .fail(&started, &lease.delivery, host::record(&failure))
                .await;
            Some(failure)
        }
        End::Superseded => {
            let last = worker.log.last(&started.task.id).await.ok().flatten();
            worker.let_go(&lease.delivery, last.as_ref()).await;
            None
        }
        End::Interrupted => {
            worker.interrupt(&started, &lease.delivery).await;
            None
        }
    };
    remove(&dir).await;
    failure
}

/// Renders from the newest checkpoint that the engine takes, or from the beginning.
async fn render(
    worker: &Worker,
    host: &mut Host,
    begun: &Begun,
    lease: &Lease,
    dir: &Path,
    stopping: &CancellationToken,
) -> End {
    let task = &begun.started.task;
    let mut checkpoints = begun.checkpoints.iter();
    loop {
        let prepared = prepare(worker, &begun.started, checkpoints.next(), dir).await;
        let (request, resumed_from) = match prepared {
            Ok(Some(prepared)) => prepared,
            Ok(None) => continue,
            Err(error) => return End::Failed(host::gone(&format!("{error:#}"))),
        };
        let superseded = lease.superseded();
        let loading = host.with_model(task.spec.model);
        let engine = tokio::select! {
            engine = loading => match engine {
                Ok(engine) => engine,
                Err(failure) => return End::Failed(failure),
            },
            () = superseded.cancelled() => return End::Superseded,
        };
        let mut running = match engine.render(request) {
            Ok(running) => running,
            Err(error) => return End::Failed(host::failure(error)),
        };
        let end = follow(worker, &begun.started, &mut running, lease, stopping).await;
        match (&end, resumed_from) {
            (End::Failed(failure), Some(stored))
                if failure.kind == ErrorKind::Checkpoint && failure.engine_alive =>
            {
                tracing::warn!(task = %task.id, key = stored.key, error = failure.message, "the engine refuses a checkpoint; trying the one before");
                let _ = worker.store.delete(&stored.key).await;
            }
            _ => return end,
        }
    }
}

type Prepared<'a> = (RenderRequest, Option<&'a checkpoints::Stored>);

/// Brings the image and the checkpoint here. None: the checkpoint is unusable, try the next.
async fn prepare<'a>(
    worker: &Worker,
    started: &Recorded,
    checkpoint: Option<&'a checkpoints::Stored>,
    dir: &Path,
) -> anyhow::Result<Option<Prepared<'a>>> {
    let task = &started.task;
    let (work_dir, out_dir) = (dir.join("work"), dir.join("out"));
    tokio::fs::create_dir_all(&work_dir).await?;
    tokio::fs::create_dir_all(&out_dir).await?;
    let resume = match checkpoint {
        None => None,
        Some(stored) => match checkpoints::fetch(&worker.store, stored, &work_dir).await {
            Ok((path, sha256)) => Some(ResumeFrom { path, sha256 }),
            Err(error) => {
                tracing::warn!(task = %task.id, key = stored.key, error = format!("{error:#}"), "a checkpoint cannot be used");
                return Ok(None);
            }
        },
    };
    let image: Option<PathBuf> = match &task.spec.image {
        None => None,
        Some(key) => {
            let path = work_dir.join("image");
            let bytes = worker.store.get_bytes(key, MAX_IMAGE_BYTES).await?;
            tokio::fs::write(&path, bytes).await?;
            Some(path)
        }
    };
    let spec = &task.spec;
    // The engine names the high-noise expert's guidance first, as diffusers does.
    let (guidance, guidance_2) = match spec.guidance_high_noise {
        Some(high) => (high, Some(spec.guidance)),
        None => (spec.guidance, None),
    };
    let request = RenderRequest {
        id: format!("{}-{}", task.id, started.sequence),
        attempt: task.attempts_total,
        task: RenderTask {
            model: spec.model.as_str().into(),
            prompt: spec.prompt.clone(),
            negative_prompt: spec.negative_prompt.clone(),
            width: spec.width,
            height: spec.height,
            frames: spec.frames,
            fps: spec.fps,
            steps: spec.steps,
            guidance,
            guidance_2,
            shift: spec.shift,
            seed: spec.seed,
            image,
        },
        work_dir,
        out_dir,
        resume,
        checkpoint: CheckpointPolicy {
            every_steps: worker.config.checkpoint.every_steps,
            min_interval_s: worker.config.checkpoint.min_interval.as_secs_f64(),
        },
    };
    Ok(Some((request, checkpoint)))
}

/// Listens to a render until it ends, is taken from us, or has to be handed back.
async fn follow(
    worker: &Worker,
    started: &Recorded,
    running: &mut Render<'_>,
    lease: &Lease,
    stopping: &CancellationToken,
) -> End {
    let uploads = Uploads::begin(worker.store.clone(), &started.task, started.sequence);
    let superseded = lease.superseded();
    let mut progress = Reporter::new(worker, started);
    // Some: the stop has come; until when the answer to it is waited for, and whether it is a checkpoint.
    let mut stop: Option<(Instant, bool)> = None;
    let end = loop {
        let deadline = stop.map(|(at, _)| at);
        let event = tokio::select! {
            event = running.next() => event,
            () = superseded.cancelled() => {
                cancel(running, "superseded").await;
                break End::Superseded;
            }
            () = stopping.cancelled(), if stop.is_none() => {
                let within = worker.config.stop.finish_within;
                let fits = progress.rest().is_some_and(|rest| rest < within);
                tracing::info!(task = %started.task.id, fits, "told to stop");
                if !fits {
                    // One that does not listen any more shows in its next event.
                    let _ = running.checkpoint_now();
                }
                stop = Some((Instant::now() + within, !fits));
                continue;
            }
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                cancel(running, "stopping").await;
                break End::Interrupted;
            }
        };
        match event {
            RenderEvent::Accepted { .. } => progress.say("accepted").await,
            RenderEvent::Phase(phase) => progress.say(phase_name(phase)).await,
            RenderEvent::Step(step) => progress.step(step.done, step.eta_s).await,
            RenderEvent::Preview(_) => {}
            RenderEvent::Checkpoint(checkpoint) => {
                uploads.offer(checkpoint);
                if let Some((_, true)) = stop {
                    cancel(running, "stopping").await;
                    break End::Interrupted;
                }
            }
            RenderEvent::Finished(finished) => {
                break End::Finished {
                    video: finished.video,
                };
            }
            RenderEvent::Failed(failure) => break End::Failed(failure),
        }
    };
    match end {
        End::Interrupted | End::Failed(_) => {
            let step = uploads.finish().await;
            tracing::debug!(task = %started.task.id, step, "the newest checkpoint is in S3");
        }
        End::Finished { .. } | End::Superseded => uploads.abandon(),
    }
    end
}

/// Ends a render and waits for its last word, so that the engine is free for the next.
async fn cancel(running: &mut Render<'_>, reason: &str) {
    let _ = running.cancel(reason);
    let last_word = async {
        while !matches!(
            running.next().await,
            RenderEvent::Finished(_) | RenderEvent::Failed(_)
        ) {}
    };
    if tokio::time::timeout(CANCEL_GRACE, last_word).await.is_err() {
        // Dropping the render takes the engine with it.
        tracing::warn!("the engine does not stop its render");
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Load => "load",
        Phase::EncodeText => "encode_text",
        Phase::EncodeImage => "encode_image",
        Phase::Denoise => "denoise",
        Phase::Decode => "decode",
        Phase::Mux => "mux",
        Phase::Other => "other",
    }
}

async fn remove(dir: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(dir).await {
        tracing::debug!(%error, dir = %dir.display(), "scratch was not removed");
    }
}

/// Progress on core NATS, and the estimate of what is left.
struct Reporter<'a> {
    worker: &'a Worker,
    started: &'a Recorded,
    said: Progress,
    eta: Option<(Instant, Duration)>,
}

impl<'a> Reporter<'a> {
    fn new(worker: &'a Worker, started: &'a Recorded) -> Self {
        let task = &started.task;
        let said = Progress {
            id: task.id.clone(),
            worker: worker.name.clone(),
            phase: String::new(),
            step: 0,
            steps: task.spec.steps,
            eta_s: None,
        };
        Self {
            worker,
            started,
            said,
            eta: None,
        }
    }

    /// What is left by the engine's own estimate; unknown before the first step.
    fn rest(&self) -> Option<Duration> {
        self.eta.map(|(at, eta)| eta.saturating_sub(at.elapsed()))
    }

    async fn step(&mut self, done: u32, eta_s: Option<f64>) {
        self.said.step = done;
        self.said.eta_s = eta_s;
        self.eta = eta_s
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
            .map(|eta| (Instant::now(), eta));
        self.worker.presence.update(|presence| presence.step = done);
        self.say("denoise").await;
    }

    async fn say(&mut self, phase: &str) {
        phase.clone_into(&mut self.said.phase);
        let Ok(payload) = serde_json::to_vec(&self.said) else {
            return;
        };
        let subject = names::progress(&self.started.task.id);
        // No promise is made for progress.
        let _ = self
            .worker
            .log
            .client()
            .publish(subject, payload.into())
            .await;
    }
}
