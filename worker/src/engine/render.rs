//! One render as its owner sees it: a sequence of events with exactly one last one.

use std::path::PathBuf;

use spotreel_engine_protocol::{
    CheckpointInfo, EmbeddingsInfo, ErrorKind, FinishedInfo, FromEngine, Phase, RenderRequest,
    ResumeKind, StepInfo, ToEngine,
};
use tokio::time::{Instant, timeout_at};

use super::channel::EngineHeard;
use super::config::Deadlines;
use super::pace::Pace;
use super::process::EngineStop;
use super::{Engine, EngineError, EngineFailure};

/// What happens during a render.
#[derive(Debug, Clone, PartialEq)]
pub enum RenderEvent {
    Accepted {
        start_step: u32,
        resume: ResumeKind,
    },
    Phase(Phase),
    Step(StepInfo),
    /// Complete on disk, but its hash is the engine's word: whoever copies the file checks it.
    Checkpoint(CheckpointInfo),
    /// As a checkpoint.
    Embeddings(EmbeddingsInfo),
    /// A small picture of the unfinished video.
    Preview(PathBuf),
    /// The last event.
    Finished(FinishedInfo),
    /// The last event.
    Failed(EngineFailure),
}

/// A render in progress. Dropped before its last event it takes the engine with it: nobody could tell any more
/// which render the engine's next words belong to.
pub struct Render<'a> {
    engine: &'a mut Engine,
    state: RenderState,
}

/// A render that has not got its engine yet.
pub(super) struct RenderState {
    id: String,
    dirs: [PathBuf; 2],
    pace: Pace,
    steps: u32,
    accepted: bool,
    done: u32,
    /// Decided, but told only once the process is gone.
    failing: Option<EngineFailure>,
    ended: bool,
}

impl RenderState {
    pub(super) fn new(request: &RenderRequest, deadlines: Deadlines) -> Self {
        Self {
            id: request.id.clone(),
            dirs: [request.work_dir.clone(), request.out_dir.clone()],
            pace: Pace::new(deadlines, Instant::now()),
            steps: request.task.steps,
            accepted: false,
            done: 0,
            failing: None,
            ended: false,
        }
    }

    pub(super) fn of(self, engine: &mut Engine) -> Render<'_> {
        Render {
            engine,
            state: self,
        }
    }
}

impl Render<'_> {
    /// The next event. Safe to drop and call again: nothing gets lost. After the last event it fails at once.
    pub async fn next(&mut self) -> RenderEvent {
        if self.state.ended {
            return RenderEvent::Failed(EngineFailure::contract("the render has ended already"));
        }
        loop {
            let heard = if self.state.failing.is_some() {
                // The supervisor has its own limits; an exit always comes.
                self.engine.heard.recv().await
            } else {
                let deadline = self.state.pace.deadline();
                match timeout_at(deadline, self.engine.heard.recv()).await {
                    Ok(heard) => heard,
                    Err(_) => {
                        let why = self.state.pace.describe();
                        self.fail_after(EngineStop::Ladder, EngineFailure::deadline(&why));
                        continue;
                    }
                }
            };
            let event = match heard {
                Some(EngineHeard::Message(at, message)) => self.hear(at, message),
                Some(EngineHeard::Broken(error)) => {
                    self.fail_after(EngineStop::Kill, EngineFailure::broken(&error));
                    None
                }
                Some(EngineHeard::Exited(status)) => {
                    let failure = self.state.failing.take();
                    let failure = failure.unwrap_or_else(|| EngineFailure::exited(status));
                    Some(RenderEvent::Failed(failure))
                }
                None => {
                    let gone = EngineFailure::contract("the engine is gone");
                    Some(RenderEvent::Failed(gone))
                }
            };
            if let Some(event) = event {
                return self.tell(event);
            }
        }
    }

    /// Asks for a checkpoint of the last whole step; it comes as an event.
    ///
    /// # Errors
    /// When the engine does not listen.
    pub fn checkpoint_now(&self) -> Result<(), EngineError> {
        self.engine.say(&ToEngine::CheckpointNow {
            id: self.state.id.clone(),
        })
    }

    /// Asks to stop. The last event still comes, and may be `Finished` if it was too late.
    ///
    /// # Errors
    /// When the engine does not listen.
    pub fn cancel(&self, reason: &str) -> Result<(), EngineError> {
        self.engine.say(&ToEngine::Cancel {
            id: self.state.id.clone(),
            reason: reason.to_owned(),
        })
    }

    /// The engine's process, for metrics.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.engine.pid()
    }

    fn tell(&mut self, event: RenderEvent) -> RenderEvent {
        match event {
            RenderEvent::Finished(_) => self.end(),
            RenderEvent::Failed(failure) => {
                self.end();
                return RenderEvent::Failed(self.engine.fail(failure));
            }
            _ => {}
        }
        event
    }

    fn end(&mut self) {
        self.state.ended = true;
        self.engine.busy = false;
    }

    fn fail_after(&mut self, stop: EngineStop, failure: EngineFailure) {
        self.engine.process.stop(stop);
        self.state.failing.get_or_insert(failure);
    }

    fn hear(&mut self, at: Instant, message: FromEngine) -> Option<RenderEvent> {
        if self.state.failing.is_some() {
            return None;
        }
        match self.state.hear(at, message) {
            Ok(Some(RenderEvent::Failed(failure))) if !failure.engine_alive => {
                self.fail_after(EngineStop::HangUp, failure);
                None
            }
            Ok(event) => event,
            Err(why) => {
                self.fail_after(EngineStop::Kill, EngineFailure::contract(why));
                None
            }
        }
    }
}

impl Drop for Render<'_> {
    fn drop(&mut self) {
        if !self.state.ended {
            self.engine.process.stop(EngineStop::Kill);
        }
    }
}

impl RenderState {
    /// Sorts out what belongs to this render and holds it against the contract.
    fn hear(
        &mut self,
        at: Instant,
        message: FromEngine,
    ) -> Result<Option<RenderEvent>, &'static str> {
        let event = match message {
            FromEngine::Accepted {
                id,
                start_step,
                resume,
            } if id == self.id => {
                if self.accepted {
                    return Err("a render was accepted twice");
                }
                if start_step > self.steps {
                    return Err("a render starts behind its end");
                }
                self.accepted = true;
                self.done = start_step;
                RenderEvent::Accepted { start_step, resume }
            }
            FromEngine::Phase { id, name } if id.as_ref() == Some(&self.id) => {
                self.pace.phase(name, at);
                RenderEvent::Phase(name)
            }
            FromEngine::Step(step) if step.id == self.id => {
                if !self.accepted {
                    return Err("a step before the render was accepted");
                }
                if step.done <= self.done || step.done > self.steps {
                    return Err("steps do not count upwards to their total");
                }
                self.done = step.done;
                self.pace.step(at);
                RenderEvent::Step(step)
            }
            FromEngine::Checkpoint(info) if info.id == self.id => {
                if !info.path.starts_with(&self.dirs[0]) {
                    return Err("a checkpoint lies outside of its directory");
                }
                RenderEvent::Checkpoint(info)
            }
            FromEngine::Embeddings(info) if info.id == self.id => {
                if !info.path.starts_with(&self.dirs[0]) {
                    return Err("encoded text lies outside of its directory");
                }
                RenderEvent::Embeddings(info)
            }
            FromEngine::Preview { id, path } if id == self.id => {
                if !path.starts_with(&self.dirs[0]) {
                    return Err("a preview lies outside of its directory");
                }
                RenderEvent::Preview(path)
            }
            FromEngine::Finished(info) if info.id == self.id => {
                if !self.accepted || self.done != self.steps {
                    return Err("finished before all steps were done");
                }
                let of_ours = |path: &PathBuf| path.starts_with(&self.dirs[1]);
                if !of_ours(&info.video) || !info.poster.as_ref().is_none_or(of_ours) {
                    return Err("a video or its poster lies outside of its directory");
                }
                RenderEvent::Finished(info)
            }
            FromEngine::Error(report) if report.id.as_ref() == Some(&self.id) => {
                let mut failure = EngineFailure::reported(&report);
                failure.engine_alive = !report.restart && report.kind != ErrorKind::Device;
                RenderEvent::Failed(failure)
            }
            FromEngine::Error(report) if report.id.is_none() => {
                tracing::warn!(kind = %report.kind, code = report.code, message = report.message, "engine reported an error");
                return Ok(None);
            }
            // Another render's last words, an answer to a ping, or news from a newer engine.
            _ => return Ok(None),
        };
        Ok(Some(event))
    }
}
