//! Publishes progress on core NATS, and measures the remaining time.

use std::collections::VecDeque;
use std::time::Duration;

use spotreel_api::{PreviewImage, Progress};
use spotreel_bus::{Recorded, names};
use tokio::time::Instant;

use crate::Worker;
use crate::engine::protocol::StepInfo;
use crate::machine::leave::By;
use crate::task::interruption::{InterruptionPlan, Remainder};

/// Steps that the next one is judged by: models with two experts change their pace half-way.
const STEPS_MEASURED: usize = 3;

pub struct Reporter<'a> {
    worker: &'a Worker,
    started: &'a Recorded,
    said: Progress,
    eta: Option<(Instant, Duration)>,
    start_step: u32,
    /// The newest first.
    steps: VecDeque<Duration>,
    last_step: Instant,
}

impl<'a> Reporter<'a> {
    pub fn new(worker: &'a Worker, started: &'a Recorded) -> Self {
        let task = &started.task;
        let said = Progress {
            id: task.id.clone(),
            worker: worker.name.clone(),
            phase: String::new(),
            step: 0,
            steps: task.spec.steps,
            eta_s: None,
            preview_image: None,
        };
        Self {
            worker,
            started,
            said,
            eta: None,
            start_step: 0,
            steps: VecDeque::with_capacity(STEPS_MEASURED),
            last_step: Instant::now(),
        }
    }

    /// What becomes of the render, should it be wanted to end.
    pub fn plan(&self, by: Option<By>) -> InterruptionPlan {
        let Some(by) = by else {
            return InterruptionPlan::GoOn;
        };
        let spec = &self.started.task.spec;
        let steps_left = spec.steps.saturating_sub(self.said.step);
        let (decode, upload) = self.worker.measured.expect(spec);
        let rest = Remainder {
            steps_left,
            steps_done: self.said.step.saturating_sub(self.start_step),
            step: self.steps.iter().max().copied(),
            decode: match steps_left {
                0 => decode.saturating_sub(self.last_step.elapsed()),
                _ => decode,
            },
            upload,
            by_engine: self.eta.map(|(at, eta)| eta.saturating_sub(at.elapsed())),
        };
        let config = &self.worker.config;
        config
            .salvage
            .plan(by, &rest, config.stop.finish_within, Instant::now())
    }

    pub async fn accepted(&mut self, start_step: u32) {
        (self.start_step, self.said.step) = (start_step, start_step);
        self.last_step = Instant::now();
        self.say("accepted").await;
    }

    pub async fn step(&mut self, step: &StepInfo) {
        self.said.step = step.done;
        self.said.eta_s = step.eta_s;
        let duration = |seconds| Duration::try_from_secs_f64(seconds).ok();
        self.last_step = Instant::now();
        self.eta = step
            .eta_s
            .and_then(duration)
            .map(|eta| (self.last_step, eta));
        if let Some(took) = duration(step.seconds) {
            self.steps.truncate(STEPS_MEASURED - 1);
            self.steps.push_front(took);
        }
        self.worker
            .presence
            .update(|presence| presence.step = step.done);
        self.say("denoise").await;
    }

    /// Steps that are done.
    pub fn done(&self) -> u32 {
        self.said.step
    }

    /// A picture of the unfinished video, from here on.
    pub async fn show(&mut self, preview: Option<PreviewImage>) {
        self.said.preview_image = preview;
        let phase = self.said.phase.clone();
        self.say(&phase).await;
    }

    pub fn decoded(&self) {
        let spec = &self.started.task.spec;
        self.worker.measured.decoded(spec, self.last_step.elapsed());
    }

    pub async fn say(&mut self, phase: &str) {
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
