//! Follows one render: tells its steps, uploads its checkpoints, and ends it when the worker has to leave.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_bootstrap::ambient;
use spotreel_bus::{Lease, Recorded};
use spotreel_domain::Task;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Worker;
use crate::engine::protocol::Phase;
use crate::engine::{EngineError, EngineFailure, Render, RenderEvent};
use crate::machine::leave::{By, LeaveOrder};
use crate::packs::{PackUnavailable, embeddings};
use crate::task::checkpoints::Uploads;
use crate::task::error::AttemptError;
use crate::task::interruption::InterruptionPlan;
use crate::task::previews::Previews;
use crate::task::progress::Reporter;

/// Time for an engine to confirm that it has cancelled its render.
const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Of a notice, what is kept for saying that the task is handed back.
const GOODBYE: Duration = Duration::from_secs(3);
/// Minimum time for the upload of a checkpoint, even if no time is left: instances often live a little longer.
const LEAST_UPLOAD: Duration = Duration::from_secs(2);

/// How a render ended.
pub enum End {
    Finished {
        video: PathBuf,
        poster: Option<PathBuf>,
    },
    Failed(AttemptError),
    /// The task is not this worker's any more.
    Superseded,
    /// It is handed back.
    Interrupted,
}

/// What is told of an attempt at its end, for the receipt of the task.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When the model was loaded and the work began.
    pub rendering_at: Option<Timestamp>,
    pub steps_done: u32,
}

impl Told {
    /// Of an attempt that has done nothing yet.
    pub fn new(from_step: u32) -> Self {
        Self {
            rendering_at: None,
            steps_done: from_step,
        }
    }

    fn hear(&mut self, event: &RenderEvent) {
        match event {
            RenderEvent::Phase(Phase::Load) => {}
            RenderEvent::Phase(_) => {
                self.rendering_at.get_or_insert_with(ambient::now);
            }
            RenderEvent::Step(step) => {
                self.rendering_at.get_or_insert_with(ambient::now);
                self.steps_done = step.done;
            }
            RenderEvent::Accepted { start_step, .. } => self.steps_done = *start_step,
            _ => {}
        }
    }
}

/// Listens to a render until it ends, is taken from us, or has to be handed back.
///
/// `given_up`: a file of the model will not come. `embeddings`: where the encoded text is kept.
pub async fn follow(
    worker: &Worker,
    started: &Recorded,
    running: &mut Render<'_>,
    lease: &Lease,
    given_up: impl Future<Output = PackUnavailable>,
    embeddings: Option<String>,
    told: &mut Told,
) -> End {
    tokio::pin!(given_up);
    let superseded = lease.superseded();
    let mut follower = Follower::new(worker, started, embeddings);
    let mut shown = follower.previews.stored();
    let mut orders = worker.leave.orders();
    orders.mark_changed();
    let end = loop {
        let limit = follower.limit();
        let event = tokio::select! {
            event = running.next() => Some(event),
            () = superseded.cancelled() => {
                cancel(running, "superseded").await;
                break End::Superseded;
            }
            error = &mut given_up => {
                cancel(running, "a file of the model will not come").await;
                break End::Failed(error.into());
            }
            _ = orders.changed() => None,
            Ok(()) = shown.changed() => {
                let preview = shown.borrow_and_update().clone();
                follower.progress.show(preview).await;
                continue;
            }
            () = tokio::time::sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => {
                match follower.late(running) {
                    Some(end) => break end,
                    None => continue,
                }
            }
        };
        let measured_anew = matches!(event, None | Some(RenderEvent::Step(_)));
        if let Some(event) = event {
            told.hear(&event);
            if let Some(end) = follower.hear(event, running).await {
                break end;
            }
        }
        if measured_anew && let Some(end) = follower.decide(&mut orders, running) {
            break end;
        }
    };
    match end {
        End::Interrupted | End::Failed(_) => {
            let step = saved(worker, follower.uploads).await;
            tracing::debug!(task = %started.task.id, step, "newest checkpoint uploaded");
        }
        End::Finished { .. } | End::Superseded => follower.uploads.abandon(),
    }
    end
}

struct Follower<'a> {
    worker: &'a Worker,
    task: &'a Task,
    uploads: Uploads,
    previews: Previews,
    progress: Reporter<'a>,
    embeddings: Option<String>,
    plan: InterruptionPlan,
    stepped: bool,
}

impl<'a> Follower<'a> {
    fn new(worker: &'a Worker, started: &'a Recorded, embeddings: Option<String>) -> Self {
        let (task, fence) = (&started.task, started.sequence);
        Self {
            worker,
            task,
            uploads: Uploads::begin(worker.store.clone(), task, fence),
            previews: Previews::begin(worker.store.clone(), task, fence),
            progress: Reporter::new(worker, started),
            embeddings,
            plan: InterruptionPlan::GoOn,
            stepped: false,
        }
    }

    /// Until when the plan holds.
    fn limit(&self) -> Option<Instant> {
        match self.plan {
            InterruptionPlan::FinishBy(at) | InterruptionPlan::CheckpointBy(at) => Some(at),
            InterruptionPlan::GoOn | InterruptionPlan::HandBack => None,
        }
    }

    /// The plan's time is over.
    fn late(&mut self, running: &Render<'_>) -> Option<End> {
        let standing = self.worker.leave.standing();
        match (self.plan, standing.map(|order| order.by)) {
            // It should have fitted. What is left of the notice is for a checkpoint.
            (InterruptionPlan::FinishBy(_), Some(By::Notice(goes))) => {
                let _ = running.checkpoint_now();
                let now = Instant::now();
                self.plan =
                    InterruptionPlan::CheckpointBy(now + goes.saturating_duration_since(now) / 2);
                None
            }
            _ => Some(End::Interrupted),
        }
    }

    async fn hear(&mut self, event: RenderEvent, running: &mut Render<'_>) -> Option<End> {
        match event {
            RenderEvent::Accepted { start_step, .. } => self.progress.accepted(start_step).await,
            RenderEvent::Phase(phase) => self.progress.say(phase_name(phase)).await,
            RenderEvent::Step(step) => {
                self.stepped = true;
                self.progress.step(&step).await;
                // The notice may never come, or too late.
                if self.worker.presence.is_hinted() {
                    let _ = running.checkpoint_now();
                }
            }
            RenderEvent::Preview(path) => self.previews.offer(path, self.progress.done()),
            RenderEvent::Embeddings(info) => {
                if let Some(key) = &self.embeddings {
                    embeddings::upload(self.worker.store.clone(), key.clone(), info);
                }
            }
            RenderEvent::Checkpoint(checkpoint) => {
                self.uploads.offer(checkpoint);
                if let InterruptionPlan::CheckpointBy(_) = self.plan {
                    return Some(End::Interrupted);
                }
            }
            RenderEvent::Finished(finished) => {
                self.progress.decoded();
                return Some(End::Finished {
                    video: finished.video,
                    poster: finished.poster,
                });
            }
            RenderEvent::Failed(failure) => {
                let stepped = self.stepped;
                let failure = EngineFailure { stepped, ..failure };
                return Some(End::Failed(EngineError::from(failure).into()));
            }
        }
        None
    }

    /// Asks the interruption policy. Each step is a new measurement; what was once to be handed back stays so.
    fn decide(
        &mut self,
        orders: &mut watch::Receiver<Option<LeaveOrder>>,
        running: &Render<'_>,
    ) -> Option<End> {
        if let InterruptionPlan::CheckpointBy(_) = self.plan {
            return None;
        }
        let before = self.plan;
        self.plan = self
            .progress
            .plan(orders.borrow_and_update().map(|order| order.by));
        if self.plan != before {
            tracing::info!(task = %self.task.id, plan = ?self.plan, "interruption policy decided");
        }
        match self.plan {
            InterruptionPlan::HandBack => return Some(End::Interrupted),
            // One that does not listen any more shows in its next event.
            InterruptionPlan::CheckpointBy(_) => drop(running.checkpoint_now()),
            InterruptionPlan::GoOn | InterruptionPlan::FinishBy(_) => {}
        }
        None
    }
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
