//! The main loop: take, begin, render, and hand the finished file on while the next task is taken.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::{Context, UnfitMachine};
use spotreel_bus::{Lease, Recorded, names, trace};
use spotreel_domain::{Model, Task};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument;

use crate::engine::protocol::{ErrorKind, Phase};
use crate::engine::{Blame, EngineFailure, Render, RenderEvent};
use crate::machine::host::{self, Host, Ready};
use crate::machine::leave::By;
use crate::packs::{self, embeddings};
use crate::task::begin::Begun;
use crate::task::checkpoints::{self, Stored, Uploads};
use crate::task::finish::{Finish, Rendered};
use crate::task::interruption::Plan;
use crate::task::prepare::Prepared;
use crate::task::previews::Previews;
use crate::task::progress::Reporter;
use crate::task::take::{Next, Take, Taken};
use crate::{Worker, crash};

/// Videos on their way to S3 while the next one renders. With one, memory and disk stay bounded, and an upload that is
/// slower than a render holds the renders back.
const UPLOADS_AT_ONCE: usize = 1;
/// Delay before a task that this worker has already declined for its size is delivered again, when it comes here once more.
const TO_OTHERS: Duration = Duration::from_secs(10);
/// Time for an engine to confirm that it has cancelled its render.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Of a notice, what is kept for saying that the task is handed back.
const GOODBYE: Duration = Duration::from_secs(3);
/// Minimum time for the upload of a checkpoint, even if no time is left: instances often live a little longer.
const LEAST_UPLOAD: Duration = Duration::from_secs(2);

enum End {
    Finished {
        video: PathBuf,
        poster: Option<PathBuf>,
    },
    Failed(EngineFailure),
    Superseded,
    Interrupted,
}

pub async fn run(worker: Arc<Worker>, mut take: Take, ctx: Context) -> anyhow::Result<()> {
    let mut host = Host::new(
        worker.config.engine.clone(),
        ctx.health.clone(),
        worker.on_cloud,
    );
    let uploading = Arc::new(Semaphore::new(UPLOADS_AT_ONCE));
    let leaving = worker.leave.leaving();
    let mut given_up: Option<String> = None;
    loop {
        match host.ready(leaving).await {
            Ready::Yes => {}
            Ready::Leaving => break,
            Ready::GiveUp(reason) => {
                given_up = Some(reason);
                break;
            }
        }
        worker.presence.serve();
        let taken = match take
            .next(host.loaded(), worker.config.pull_wait, leaving)
            .await
        {
            Next::Taken(taken) => *taken,
            Next::Leaving => break,
            Next::Unfit(reason) => {
                given_up = Some(reason.to_owned());
                break;
            }
            Next::Idle => {
                worker.leave.order(By::WhenDone, "there is no work");
                break;
            }
        };
        crash::point("after-lease");
        if host.has_declined(&taken.delivery) {
            // Its reason is in the log; from here on it counts for nothing, not even as work.
            let _ = taken.delivery.nak(TO_OTHERS).await;
            continue;
        }
        take.restart_idle_clock();
        let span = tracing::info_span!(
            "attempt",
            worker = worker.name,
            task = tracing::field::Empty
        );
        trace::adopt(&span, &taken.delivery.headers);
        let failed = attempt(&worker, &mut host, taken, &uploading, &ctx)
            .instrument(span)
            .await;
        worker.presence.render(None);
        if let Some((model, failure)) = &failed
            && failure.kind == ErrorKind::Model
            && failure.code != packs::CODE
        {
            given_up = stop_taking(&mut take, *model, &ctx).map(str::to_owned);
        }
        if !host
            .judge(failed.as_ref().map(|(_, failure)| failure))
            .await
        {
            given_up = Some(host::GIVEN_UP_FOR_DEVICE.to_owned());
        }
        if given_up.is_some() {
            break;
        }
    }
    worker.presence.leave();
    let last_upload = async {
        // What was rendered is not thrown away.
        let _ = uploading.acquire().await;
        worker.presence.drained().await;
    };
    tokio::join!(host.discard(), last_upload);
    match given_up {
        Some(reason) => Err(UnfitMachine(reason.to_owned()).into()),
        None => Ok(()),
    }
}

/// Weights that are missing or broken here fail every task of the model: leave them to other workers.
fn stop_taking(take: &mut Take, model: Model, ctx: &Context) -> Option<&'static str> {
    tracing::error!(%model, "model cannot be loaded; declining its tasks");
    ctx.health
        .set("model", Err(format!("{model} is unusable on this machine")));
    take.forget(model);
    take.is_empty().then_some("no model is usable")
}

/// One work item, to its end or to the hands of the upload. Returns how the engine failed, if it did, and at which model.
async fn attempt(
    worker: &Arc<Worker>,
    host: &mut Host,
    taken: Taken,
    uploading: &Arc<Semaphore>,
    ctx: &Context,
) -> Option<(Model, EngineFailure)> {
    let Taken {
        delivery,
        ack_wait,
        others,
    } = taken;
    // In hand from here on, whatever becomes of it.
    if let Some((id, _)) = names::parse_log_subject(&delivery.subject) {
        worker.presence.render(Some(&id));
    }
    let lease = Lease::hold(worker.log.clone(), delivery, ack_wait);
    let begun = worker.begin(lease).await;
    drop(others);
    let Begun {
        started,
        lease,
        checkpoints,
        finished,
    } = begun?;
    let task = &started.task;
    tracing::Span::current().record("task", task.id.as_str());
    tracing::info!(task = %task.id, model = %task.spec.model, from_step = checkpoints.first().map_or(0, |c| c.next_step), "started");
    if let Some(artifact) = finished {
        worker.succeed(&started, lease, artifact).await;
        return None;
    }
    worker
        .presence
        .update(|presence| presence.steps = task.spec.steps);
    let dir = worker
        .scratch
        .join(format!("{}-{}", task.id, started.sequence));
    let end = render(worker, host, &started, checkpoints, &lease, &dir).await;
    let failure = match end {
        End::Finished { video, poster } => {
            let permit = Arc::clone(uploading).acquire_owned().await;
            let worker = Arc::clone(worker);
            let engine = host.engine_name();
            worker.presence.upload(Some(&task.id));
            let upload = async move {
                let began = Instant::now();
                let rendered = Rendered {
                    video: &video,
                    poster: poster.as_deref(),
                    engine: &engine,
                };
                match worker.finish(&started, lease, rendered).await {
                    Finish::Stored => worker.wellness.stored(),
                    Finish::Refused => worker.wellness.refused(&started.task.id),
                    Finish::Unreadable => worker.wellness.handed_back(&started.task.id),
                    Finish::Hindered => {
                        worker.wellness.doubt_storage();
                        worker.wellness.handed_back(&started.task.id);
                    }
                }
                let spec = &started.task.spec;
                worker.measured.uploaded(spec, began.elapsed());
                worker.presence.upload(None);
                remove(&dir).await;
                drop(permit);
            };
            ctx.tasks.spawn(upload.in_current_span());
            return None;
        }
        End::Failed(failure) => {
            let why = host::record(&failure);
            let delivery = lease.release().await;
            if failure.does_not_fit() {
                host.declines(&delivery);
            }
            note(worker, &started.task, &failure);
            match failure.blame() {
                Blame::Task => worker.fail(&started, &delivery, why).await,
                Blame::Worker => worker.decline(&started, &delivery, why).await,
                Blame::Surroundings => worker.hinder(&started, &delivery, why).await,
            }
            Some((started.task.spec.model, failure))
        }
        End::Superseded => {
            let last = worker.log.last(&started.task.id).await;
            if let Err(error) = &last {
                tracing::warn!(task = %started.task.id, error = spotreel_domain::chain(error), "reading the task log failed; the work item keeps its lease");
            }
            let delivery = lease.release().await;
            worker.let_go(&delivery, last.ok().flatten().as_ref()).await;
            None
        }
        End::Interrupted => {
            let delivery = lease.release().await;
            worker.interrupt(&started, &delivery).await;
            None
        }
    };
    remove(&dir).await;
    failure
}

/// What a failure says of this worker. That a task does not fit, or that a model's files are unusable, is known by other
/// means, and leaves the other tasks.
fn note(worker: &Worker, task: &Task, failure: &EngineFailure) {
    if failure.stepped {
        worker.wellness.rendered();
        // A task that has failed before may be what ends engines.
        if !failure.engine_alive && task.failures == 0 {
            worker.wellness.engine_lost(&task.id);
        }
    }
    match failure.blame() {
        Blame::Task => {}
        Blame::Worker if failure.does_not_fit() || failure.kind == ErrorKind::Model => {}
        Blame::Worker => worker.wellness.handed_back(&task.id),
        Blame::Surroundings => {
            worker.wellness.doubt_storage();
            worker.wellness.handed_back(&task.id);
        }
    }
}

/// Renders from the newest checkpoint that the engine takes, or from the beginning; with less memory if it runs out.
async fn render(
    worker: &Worker,
    host: &mut Host,
    started: &Recorded,
    checkpoints: Vec<Stored>,
    lease: &Lease,
    dir: &Path,
) -> End {
    let task = &started.task;
    let hurried = worker.leave.hurried();
    tokio::pin!(hurried);
    let mut checkpoints = VecDeque::from(checkpoints);
    let mut profile = None;
    loop {
        let superseded = lease.superseded();
        let preparing = Prepared::new(
            worker,
            host,
            started,
            &mut checkpoints,
            profile.as_deref(),
            dir,
        );
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            () = superseded.cancelled() => return End::Superseded,
            // Loading takes minutes, and there is nothing of this attempt to save yet.
            () = &mut hurried => return End::Interrupted,
        };
        let Prepared {
            request,
            resumed_from,
            embeddings,
            late,
        } = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                host.remember(&task.spec, &failure);
                return End::Failed(failure);
            }
        };
        let mut running = match host.begin(request, &task.spec) {
            Ok(running) => running,
            Err(failure) => return End::Failed(failure),
        };
        let forsaken = packs::forsaken(worker.packs.as_ref(), late);
        let end = follow(worker, started, &mut running, lease, forsaken, embeddings).await;
        drop(running);
        let End::Failed(failure) = &end else {
            return end;
        };
        match (failure.kind, resumed_from) {
            (ErrorKind::Checkpoint, Some(stored)) if failure.engine_alive => {
                tracing::warn!(task = %task.id, key = stored.key, error = failure.message, "engine refused a checkpoint; trying the one before it");
                checkpoints::remove(&worker.store, &stored).await;
            }
            (ErrorKind::Oom, _) if failure.engine_alive => match host.lower_profile() {
                Some(lower) => {
                    tracing::warn!(task = %task.id, profile = lower, error = failure.message, "out of memory; retrying with a profile that needs less");
                    profile = Some(lower);
                    // This attempt may have got further than those before it.
                    if let Ok(newest) = checkpoints::list(&worker.store, task).await {
                        checkpoints = newest.into();
                    }
                }
                None => {
                    host.remember(&task.spec, failure);
                    return end;
                }
            },
            _ => return end,
        }
    }
}

/// Listens to a render until it ends, is taken from us, or has to be handed back.
#[expect(
    clippy::too_many_lines,
    reason = "one loop, whose arms share all of its state"
)]
async fn follow(
    worker: &Worker,
    started: &Recorded,
    running: &mut Render<'_>,
    lease: &Lease,
    forsaken: impl Future<Output = EngineFailure>,
    embeddings_key: Option<String>,
) -> End {
    let task = &started.task;
    tokio::pin!(forsaken);
    let uploads = Uploads::begin(worker.store.clone(), task, started.sequence);
    let superseded = lease.superseded();
    let mut previews = Previews::begin(worker.store.clone(), task, started.sequence);
    let mut shown = previews.stored();
    let mut progress = Reporter::new(worker, started);
    let mut orders = worker.leave.orders();
    orders.mark_changed();
    let mut plan = Plan::GoOn;
    let mut stepped = false;
    let end = loop {
        let limit = match plan {
            Plan::FinishBy(at) | Plan::CheckpointBy(at) => Some(at),
            Plan::GoOn | Plan::HandBack => None,
        };
        let event = tokio::select! {
            event = running.next() => Some(event),
            () = superseded.cancelled() => {
                cancel(running, "superseded").await;
                break End::Superseded;
            }
            failure = &mut forsaken => {
                cancel(running, "a file of the model will not come").await;
                break End::Failed(failure);
            }
            _ = orders.changed() => None,
            Ok(()) = shown.changed() => {
                let preview = shown.borrow_and_update().clone();
                progress.show(preview).await;
                continue;
            }
            () = tokio::time::sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => {
                match (plan, worker.leave.standing().map(|order| order.by)) {
                    // It should have fitted. What is left of the notice is for a checkpoint.
                    (Plan::FinishBy(_), Some(By::Notice(goes))) => {
                        let _ = running.checkpoint_now();
                        let now = Instant::now();
                        plan = Plan::CheckpointBy(now + goes.saturating_duration_since(now) / 2);
                        continue;
                    }
                    _ => break End::Interrupted,
                }
            }
        };
        let steps_on = matches!(event, None | Some(RenderEvent::Step(_)));
        match event {
            None => {}
            Some(RenderEvent::Accepted { start_step, .. }) => progress.accepted(start_step).await,
            Some(RenderEvent::Phase(phase)) => progress.say(phase_name(phase)).await,
            Some(RenderEvent::Step(step)) => {
                stepped = true;
                progress.step(&step).await;
                // The notice may never come, or too late.
                if worker.presence.is_hinted() {
                    let _ = running.checkpoint_now();
                }
            }
            Some(RenderEvent::Preview(path)) => previews.offer(path, progress.done()),
            Some(RenderEvent::Embeddings(info)) => {
                if let Some(key) = &embeddings_key {
                    embeddings::upload(worker.store.clone(), key.clone(), info);
                }
            }
            Some(RenderEvent::Checkpoint(checkpoint)) => {
                uploads.offer(checkpoint);
                if let Plan::CheckpointBy(_) = plan {
                    break End::Interrupted;
                }
            }
            Some(RenderEvent::Finished(finished)) => {
                progress.decoded();
                break End::Finished {
                    video: finished.video,
                    poster: finished.poster,
                };
            }
            Some(RenderEvent::Failed(failure)) => {
                break End::Failed(EngineFailure { stepped, ..failure });
            }
        }
        // Each step is a new measurement; what was once to be handed back stays so.
        if steps_on && !matches!(plan, Plan::CheckpointBy(_)) {
            let before = plan;
            plan = progress.plan(orders.borrow_and_update().map(|order| order.by));
            if plan != before {
                tracing::info!(task = %task.id, ?plan, "interruption policy decided");
            }
            match plan {
                Plan::HandBack => break End::Interrupted,
                // One that does not listen any more shows in its next event.
                Plan::CheckpointBy(_) => drop(running.checkpoint_now()),
                Plan::GoOn | Plan::FinishBy(_) => {}
            }
        }
    };
    match end {
        End::Interrupted | End::Failed(_) => {
            let step = saved(worker, uploads).await;
            tracing::debug!(task = %task.id, step, "newest checkpoint uploaded");
        }
        End::Finished { .. } | End::Superseded => uploads.abandon(),
    }
    end
}

/// Waits until the newest checkpoint is in S3, but not beyond the machine's end: the next worker must not have to wait
/// until the lease ends.
async fn saved(worker: &Worker, uploads: Uploads) -> Option<u32> {
    match worker.leave.standing().map(|order| order.by) {
        Some(By::Notice(goes)) => {
            let until = goes
                .checked_sub(GOODBYE)
                .unwrap_or(goes)
                .max(Instant::now() + LEAST_UPLOAD);
            tokio::time::timeout_at(until, uploads.finish()).await.ok()
        }
        _ => Some(uploads.finish().await),
    }
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
        tracing::warn!("engine did not stop its render");
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
        tracing::debug!(%error, dir = %dir.display(), "deleting the scratch directory failed");
    }
}
