//! The path of one task through this worker. [`run`] repeats it, and `attempt` below shows it from top to bottom:
//!
//! | step | file | what happens |
//! |---|---|---|
//! | take | [`take`], `order.rs` | a work item is pulled from the queues |
//! | begin | [`begin`] | the newest event is read, and `started` is written |
//! | prepare | [`prepare`] | pack, checkpoint and picture are fetched; the engine loads the model |
//! | render | `render.rs`, `follow.rs` | the engine renders; [`checkpoints`] and [`previews`] are uploaded, [`progress`] is published |
//! | gate, upload | [`finish`] | the video is checked and put in storage, beside the next render |
//! | outcome | `outcome.rs` | the end is written to the log, and the work item acked or handed back |
//!
//! [`error`] says whose fault a failure is, [`interruption`] what becomes of a render when the worker has to leave.

pub mod begin;
pub mod checkpoints;
pub mod error;
pub mod finish;
mod follow;
pub mod interruption;
mod order;
mod outcome;
pub mod prepare;
pub mod previews;
pub mod progress;
mod render;
pub mod take;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spotreel_bootstrap::{Context, UnfitMachine};
use spotreel_bus::{Lease, Recorded, names, trace};
use spotreel_domain::{Model, Task};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument;

use crate::machine::host::{self, Host, Ready};
use crate::machine::leave::By;
use crate::machine::scratch;
use crate::{Worker, crash};

use begin::Begun;
use error::{AttemptError, Blame};
use finish::Rendered;
use follow::{End, Told};
use render::render;
use take::{Next, Take, Taken};

/// Videos on their way to S3 while the next one renders. With one, memory and disk stay bounded, and an upload that is
/// slower than a render holds the renders back.
const UPLOADS_AT_ONCE: usize = 1;
/// Delay before a task that this worker has already declined for its size is delivered again, when it comes here once more.
const TO_OTHERS: Duration = Duration::from_secs(10);

/// Renders tasks until the worker leaves.
///
/// # Errors
/// When this machine can render nothing.
pub async fn run(worker: Arc<Worker>, mut take: Take, ctx: Context) -> Result<(), UnfitMachine> {
    let mut host = Host::new(
        worker.config.engine.clone(),
        ctx.health.clone(),
        worker.on_cloud,
    );
    let uploading = Arc::new(Semaphore::new(UPLOADS_AT_ONCE));
    let given_up = repeat(&worker, &mut take, &mut host, &uploading, &ctx).await;
    worker.presence.leave();
    let last_upload = async {
        // What was rendered is not thrown away.
        let _ = uploading.acquire().await;
        worker.presence.drained().await;
    };
    tokio::join!(host.discard(), last_upload);
    match given_up {
        Some(reason) => Err(UnfitMachine(reason)),
        None => Ok(()),
    }
}

/// Takes and renders one task after the other until the worker leaves. Says why this machine can render nothing, if so.
async fn repeat(
    worker: &Arc<Worker>,
    take: &mut Take,
    host: &mut Host,
    uploading: &Arc<Semaphore>,
    ctx: &Context,
) -> Option<String> {
    let leaving = worker.leave.leaving();
    loop {
        match host.ready(leaving).await {
            Ready::Yes => {}
            Ready::Leaving => return None,
            Ready::GiveUp(reason) => return Some(reason),
        }
        worker.presence.serve();
        let taken = match take
            .next(host.loaded(), worker.config.pull_wait, leaving)
            .await
        {
            Next::Taken(taken) => *taken,
            Next::Leaving => return None,
            Next::Unfit(reason) => return Some(reason.to_owned()),
            Next::Idle => {
                worker.leave.order(By::WhenDone, "there is no work");
                return None;
            }
        };
        crash::point("after-lease");
        if host.misfits.has_declined(&taken.delivery) {
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
        let failed = attempt(worker, host, taken, uploading, ctx)
            .instrument(span)
            .await;
        worker.presence.render(None);
        let unusable = match &failed {
            Some((model, error)) if error.spoils_model() => stop_taking(take, *model, ctx),
            _ => None,
        };
        let of_engine = failed.as_ref().and_then(|(_, error)| error.engine());
        if !host.judge(of_engine).await {
            return Some(host::GIVEN_UP_FOR_DEVICE.to_owned());
        }
        if unusable.is_some() {
            return unusable.map(str::to_owned);
        }
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

/// One work item, to its end or to the hands of the upload. Returns why the attempt failed, if it did, and at which model.
async fn attempt(
    worker: &Arc<Worker>,
    host: &mut Host,
    taken: Taken,
    uploading: &Arc<Semaphore>,
    ctx: &Context,
) -> Option<(Model, AttemptError)> {
    // Begin. In hand from here on, whatever becomes of it.
    if let Some((id, _)) = names::parse_log_subject(&taken.delivery.subject) {
        worker.presence.render(Some(&id));
    }
    let lease = Lease::hold(worker.log.clone(), taken.delivery, taken.ack_wait);
    let begun = worker.begin(lease).await;
    drop(taken.others);
    let Begun {
        mut started,
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

    // Prepare and render.
    worker
        .presence
        .update(|presence| presence.steps = task.spec.steps);
    let dir = worker
        .scratch
        .join(format!("{}-{}", task.id, started.sequence));
    let from_step = task.running().map_or(0, |attempt| attempt.from_step);
    let mut told = Told::new(from_step);
    let end = render(worker, host, &started, checkpoints, &lease, &dir, &mut told).await;
    started.task.tell(told.rendering_at, told.steps_done);
    let task = &started.task;

    // Gate and upload, or another outcome.
    let failed = match end {
        End::Finished { video, poster } => {
            let rendered = Rendered {
                video,
                poster,
                engine: host.engine_name(),
            };
            hand_over(worker, started, lease, rendered, dir, uploading, ctx).await;
            return None;
        }
        End::Failed(error) => {
            let delivery = lease.release().await;
            if error.too_large().is_some() {
                host.misfits.decline(&delivery);
            }
            note(worker, task, &error);
            worker
                .failed(&started, &delivery, error.blame(), error.record())
                .await;
            Some((task.spec.model, error))
        }
        End::Superseded => {
            worker.superseded(&started, lease).await;
            None
        }
        End::Interrupted => {
            let delivery = lease.release().await;
            worker.interrupt(&started, &delivery).await;
            None
        }
    };
    scratch::remove(&dir).await;
    failed
}

/// Takes a rendered file to its end beside the next render, once the upload before it has ended.
async fn hand_over(
    worker: &Arc<Worker>,
    started: Recorded,
    lease: Lease,
    rendered: Rendered,
    dir: PathBuf,
    uploading: &Arc<Semaphore>,
    ctx: &Context,
) {
    let permit = Arc::clone(uploading).acquire_owned().await;
    let worker = Arc::clone(worker);
    worker.presence.upload(Some(&started.task.id));
    let finishing = async move {
        let began = Instant::now();
        worker.finish(&started, lease, &rendered).await;
        let spec = &started.task.spec;
        worker.measured.uploaded(spec, began.elapsed());
        worker.presence.upload(None);
        scratch::remove(&dir).await;
        drop(permit);
    };
    ctx.tasks.spawn(finishing.in_current_span());
}

/// What a failure says of this worker.
fn note(worker: &Worker, task: &Task, error: &AttemptError) {
    if let Some(failure) = error.engine_failure()
        && failure.stepped
    {
        worker.wellness.rendered();
        // A task that has failed before may be what ends engines.
        if !failure.engine_alive && task.failures == 0 {
            worker.wellness.engine_lost(&task.id);
        }
    }
    match error.blame() {
        Blame::Task => {}
        Blame::Worker if error.leaves_others() => {}
        Blame::Worker => worker.wellness.handed_back(&task.id),
        Blame::Surroundings => {
            worker.wellness.doubt_storage();
            worker.wellness.handed_back(&task.id);
        }
    }
}
