//! The engine as a child process: started, spoken to, watched, and never left behind.
//!
//! An [`Engine`] keeps its model loaded between renders. A [`Render`] borrows it, so one engine renders one task at a
//! time. What an engine can do wrong ends as one [`EngineFailure`] with a kind that the queue understands: it may
//! report an error, exit, hang past a deadline, or break the contract. Nothing here knows of the queue or of S3.
//!
//! Every kill goes to the engine's process group. When the worker itself is killed, the channel ends and the engine
//! exits by itself.

mod channel;
mod config;
mod failure;
mod logs;
mod pace;
mod process;
mod render;

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::Duration;

use spotreel_engine_protocol::{
    EngineHello, ErrorKind, FromEngine, PROTO, RenderRequest, ToEngine, negotiate,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

pub use config::{Deadlines, EngineConfig, Graces, Load};
pub use failure::{EngineError, EngineFailure};
pub use render::{Render, RenderEvent};
pub use spotreel_engine_protocol as protocol;

use channel::EngineHeard;
use logs::LogRing;
use process::{EngineStop, Process};

struct Loaded {
    load: Load,
    /// The profile that the engine took.
    profile: Option<String>,
}

/// A running engine.
pub struct Engine {
    process: Process,
    hello: EngineHello,
    say: mpsc::Sender<Vec<u8>>,
    heard: mpsc::Receiver<EngineHeard>,
    logs: LogRing,
    config: EngineConfig,
    loaded: Option<Loaded>,
    /// A load or a render was dropped half way: what the engine says next belongs to nobody.
    busy: bool,
}

impl Engine {
    /// Starts the command and shakes hands.
    ///
    /// # Errors
    /// When it cannot be started, does not introduce itself in time, or says why it cannot render here; then nothing of
    /// it is left.
    pub async fn spawn(config: EngineConfig) -> Result<Self, EngineError> {
        let logs = LogRing::default();
        let started = process::start(&config, &logs).map_err(EngineError::Spawn)?;
        let mut engine = Self {
            process: started.process,
            say: started.say,
            heard: started.heard,
            logs,
            loaded: None,
            busy: false,
            hello: EngineHello::default(),
            config,
        };
        engine.say(&ToEngine::Hello { proto: PROTO })?;
        let deadline = Instant::now() + engine.config.deadlines.handshake;
        match engine.next_message(deadline).await? {
            FromEngine::Hello(hello) if negotiate(PROTO, hello.proto).is_some() => {
                engine.hello = *hello;
                Ok(engine)
            }
            FromEngine::Hello(hello) => Err(EngineError::Version {
                theirs: hello.proto,
            }),
            FromEngine::Error(report) if report.id.is_none() => {
                engine.stop_and_wait(EngineStop::HangUp).await;
                Err(engine.fail(EngineFailure::reported(&report)).into())
            }
            _ => Err(engine.broke_contract("the first line is not a hello").await),
        }
    }

    /// How it introduced itself.
    #[must_use]
    pub fn hello(&self) -> &EngineHello {
        &self.hello
    }

    /// The process, which leads a group of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.process.exit_status().is_none()
    }

    /// Resolves when the process has ended, whoever ended it.
    pub async fn exited(&self) -> ExitStatus {
        self.process.exited().await
    }

    /// The model that is ready to render.
    #[must_use]
    pub fn loaded(&self) -> Option<&str> {
        Some(&self.loaded.as_ref()?.load.model)
    }

    /// The engine's next profile that takes less memory than the one in use.
    #[must_use]
    pub fn lower_profile(&self) -> Option<&str> {
        let profiles = &self.hello.profiles;
        let used = self.loaded.as_ref()?.profile.as_ref()?;
        let at = profiles.iter().position(|profile| profile == used)?;
        profiles.get(at + 1).map(String::as_str)
    }

    /// The newest lines of its stdout and stderr.
    #[must_use]
    pub fn log_tail(&self) -> VecDeque<String> {
        self.logs.tail()
    }

    /// Loads a model; at once if it is the one loaded. Dropped half way, the engine is of no more use.
    ///
    /// # Errors
    /// When the engine reports one, exits, or does not finish in time.
    pub async fn load(&mut self, load: Load) -> Result<(), EngineError> {
        self.take_idle()?;
        if let Some(loaded) = &self.loaded
            && loaded.load.amounts_to(&load)
        {
            return Ok(());
        }
        self.busy = true;
        self.loaded = None;
        let wanted = load.clone();
        self.say(&ToEngine::Load {
            model: wanted.model,
            profile: wanted.profile,
            pack_dir: wanted.pack_dir,
            verified: wanted.verified,
            arriving: wanted.arriving,
        })?;
        let deadline = Instant::now() + self.config.deadlines.load;
        let profile = loop {
            match self.next_message(deadline).await? {
                FromEngine::Ready { model, profile, .. } if model == load.model => break profile,
                FromEngine::Error(report) if report.id.is_none() => {
                    self.busy = false;
                    let gone = report.restart || report.kind == ErrorKind::Device;
                    if gone {
                        self.stop_and_wait(EngineStop::HangUp).await;
                    }
                    return Err(self.fail(EngineFailure::reported(&report)).into());
                }
                _ => {}
            }
        };
        self.busy = false;
        self.loaded = Some(Loaded { load, profile });
        Ok(())
    }

    /// Starts a render of the loaded model. `step` is the expected time of a step, if known.
    ///
    /// # Errors
    /// When the engine is gone or the task's model is not the one loaded.
    pub fn render(
        &mut self,
        request: RenderRequest,
        step: Option<Duration>,
    ) -> Result<Render<'_>, EngineError> {
        self.take_idle()?;
        if self.loaded() != Some(&*request.task.model) {
            return Err(EngineError::NotLoaded {
                model: request.task.model,
            });
        }
        let deadlines = self.config.deadlines.clone().for_step(step);
        let render = render::RenderState::new(&request, deadlines);
        self.say(&ToEngine::Render(Box::new(request)))?;
        self.busy = true;
        Ok(render.of(self))
    }

    /// Asks it to end and makes sure that it does.
    pub async fn shutdown(mut self, grace: Duration) -> ExitStatus {
        let asked = self.say(&ToEngine::Shutdown {
            grace_s: grace.as_secs_f64(),
        });
        if asked.is_ok() {
            let deadline = Instant::now() + grace;
            // What it still has to say is of no interest, but must be read for it to get to its end.
            while !matches!(
                timeout_at(deadline, self.heard.recv()).await,
                Err(_) | Ok(None | Some(EngineHeard::Exited(_)))
            ) {}
        }
        self.stop_and_wait(EngineStop::Terminate).await
    }

    /// Refuses an engine that is gone or in an unknown state; forgets what an idle one said.
    fn take_idle(&mut self) -> Result<(), EngineError> {
        if self.busy {
            self.process.stop(EngineStop::Kill);
            return Err(EngineError::Abandoned);
        }
        while let Ok(heard) = self.heard.try_recv() {
            match heard {
                EngineHeard::Message(..) => {}
                EngineHeard::Broken(error) => {
                    self.process.stop(EngineStop::Kill);
                    return Err(self.fail(EngineFailure::broken(&error)).into());
                }
                EngineHeard::Exited(status) => {
                    return Err(self.fail(EngineFailure::exited(status)).into());
                }
            }
        }
        match self.process.exit_status() {
            Some(status) => Err(self.fail(EngineFailure::exited(status)).into()),
            None => Ok(()),
        }
    }

    fn say(&self, message: &ToEngine) -> Result<(), EngineError> {
        let line = protocol::encode(message).map_err(EngineError::Message)?;
        self.say.try_send(line).map_err(|_| EngineError::Deaf)
    }

    /// The next message outside of a render; its absence is a failure, after which the engine is gone.
    async fn next_message(&mut self, deadline: Instant) -> Result<FromEngine, EngineError> {
        let failure = match timeout_at(deadline, self.heard.recv()).await {
            Ok(Some(EngineHeard::Message(_, message))) => return Ok(message),
            Ok(Some(EngineHeard::Broken(error))) => {
                self.stop_and_wait(EngineStop::Kill).await;
                EngineFailure::broken(&error)
            }
            Ok(Some(EngineHeard::Exited(status))) => EngineFailure::exited(status),
            Ok(None) => EngineFailure::exited(self.exited().await),
            Err(_) => {
                self.stop_and_wait(EngineStop::Ladder).await;
                EngineFailure::deadline("the engine did not answer in time")
            }
        };
        Err(self.fail(failure).into())
    }

    async fn broke_contract(&mut self, why: &str) -> EngineError {
        self.stop_and_wait(EngineStop::Kill).await;
        self.fail(EngineFailure::contract(why)).into()
    }

    async fn stop_and_wait(&mut self, stop: EngineStop) -> ExitStatus {
        self.process.stop(stop);
        // Its last words must not block its way out.
        while let Some(heard) = self.heard.recv().await {
            if let EngineHeard::Exited(status) = heard {
                return status;
            }
        }
        self.exited().await
    }

    /// Completes a failure with what only the engine's owner knows.
    fn fail(&self, mut failure: EngineFailure) -> EngineFailure {
        failure.engine_alive = self.is_alive();
        failure.log_tail = self.logs.tail();
        failure
    }
}
