//! Keeps one engine process running with the wanted model loaded.

use std::path::PathBuf;
use std::time::Duration;

use backoff::backoff::Backoff;
use spotreel_bootstrap::Health;
use spotreel_domain::Model;
use spotreel_domain::render_time::{Gpu, Job};
use spotreel_domain::task::TaskSpec;
use spotreel_packs::Index;
use tokio_util::sync::CancellationToken;

use crate::config::EngineSection;
use crate::engine::protocol::{EngineHello, ErrorKind, RenderRequest};
use crate::engine::{Engine, EngineConfig, EngineError, Load, Render};
use crate::machine::suitability::{self, Misfits, TooLarge, Unsuitable};

/// Time for an engine to exit by itself after it was asked to.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Accelerator failures in a row, with a new engine process each, until the machine is given up.
const DEVICE_FAILURES: u32 = 2;
/// Engines in a row that did not start until a machine of a cloud is given up: it costs money, and another may do better.
/// With the pauses between them that takes seconds. One's own machine tries for ever.
const STARTS_ON_CLOUD: u32 = 5;
/// Of what an engine wrote last, as much as is told with its end: lines, the last of which may be a hint of its parser or the
/// end of a traceback, and characters of them: fleet keeps 500 of the whole sentence.
const LAST_LINES: usize = 4;
const LAST_WORDS: usize = 200;
pub const GIVEN_UP_FOR_DEVICE: &str =
    "the accelerator failed again after the engine was started anew";

/// Whether there is an engine to render with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    Yes,
    /// The worker leaves.
    Leaving,
    /// This machine can render nothing, for this reason.
    GiveUp(String),
}

pub struct Host {
    config: EngineSection,
    health: Health,
    /// A machine of a cloud, which is paid for.
    on_cloud: bool,
    engine: Option<Engine>,
    loaded: Option<Model>,
    device_failures: u32,
    pub misfits: Misfits,
}

impl Host {
    pub fn new(config: EngineSection, health: Health, on_cloud: bool) -> Self {
        Self {
            config,
            health,
            on_cloud,
            engine: None,
            loaded: None,
            device_failures: 0,
            misfits: Misfits::default(),
        }
    }

    pub fn loaded(&self) -> Option<Model> {
        self.loaded
    }

    /// Which engine renders here, for the record of a video.
    pub fn engine_name(&self) -> String {
        self.engine.as_ref().map_or_else(String::new, |engine| {
            format!("{}/{}", engine.hello().name, engine.hello().version)
        })
    }

    pub fn hello(&self) -> Option<&EngineHello> {
        Some(self.engine.as_ref()?.hello())
    }

    /// A running engine, started anew with growing pauses for as long as it takes, unless it is the accelerator that
    /// cannot be used, or the machine is a cloud's. No task is taken before there is one: an engine that cannot start must
    /// not use up the attempts of the queue.
    pub async fn ready(&mut self, stopping: &CancellationToken) -> Ready {
        let mut pauses = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(200))
            .with_max_interval(Duration::from_secs(30))
            .with_max_elapsed_time(None)
            .build();
        let mut failed = 0;
        loop {
            if self.engine.as_ref().is_some_and(Engine::is_alive) {
                return Ready::Yes;
            }
            self.discard().await;
            match Engine::spawn(self.engine_config()).await {
                Ok(engine) => {
                    self.health.set::<&str>("engine", Ok(()));
                    self.engine = Some(engine);
                    return Ready::Yes;
                }
                Err(error) => {
                    let reason = told(&error);
                    tracing::error!(error = reason, command = ?self.config.command, "engine failed to start");
                    self.health.set("engine", Err(&reason));
                    failed += 1;
                    if !self.judge(Some(&error)).await {
                        return Ready::GiveUp(format!("{GIVEN_UP_FOR_DEVICE}: {reason}"));
                    }
                    if self.on_cloud && failed >= STARTS_ON_CLOUD {
                        let reason =
                            format!("the engine did not start {failed} times in a row: {reason}");
                        return Ready::GiveUp(reason);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next_backoff().unwrap_or(Duration::from_secs(30))) => {}
                () = stopping.cancelled() => return Ready::Leaving,
            }
        }
    }

    /// What this engine has refused once for its size, or what is larger, it will refuse again; and what its card cannot hold
    /// is not worth the minutes in which the weights are pulled.
    pub fn check_size(&self, spec: &TaskSpec) -> Result<(), TooLarge> {
        let job = Job::of(spec);
        self.misfits.check(&job)?;
        // A person who names a profile knows better.
        let hello = self.hello().filter(|_| self.config.profile.is_empty());
        match hello.and_then(|hello| Gpu::of_device(hello.device.as_deref()?)) {
            Some(gpu) => suitability::check_memory(gpu, &job),
            None => Ok(()),
        }
    }

    /// Whether engine and pack have what the task asks for.
    pub fn check_offer(&self, spec: &TaskSpec, pack: Option<&Index>) -> Result<(), Unsuitable> {
        let Some(hello) = self.hello() else {
            return Ok(());
        };
        if let Some(quality) = spec.quality {
            suitability::check_quality(hello, pack, spec.model, quality)?;
        }
        suitability::check_loras(hello, spec)
    }

    /// The engine's next profile that takes less memory; none where a profile is configured.
    pub fn lower_profile(&self) -> Option<String> {
        let free = self.config.profile.is_empty();
        let lower = self.engine.as_ref().filter(|_| free)?.lower_profile()?;
        Some(lower.to_owned())
    }

    /// Has the engine load a model.
    pub async fn load(&mut self, model: Model, load: Load) -> Result<(), EngineError> {
        // An engine whose last render was given up half-way is of no more use, and may not know it yet.
        let loaded = match &mut self.engine {
            Some(engine) => engine.load(load.clone()).await,
            None => Err(EngineError::Abandoned),
        };
        self.loaded = None;
        match loaded {
            Err(EngineError::Abandoned) => {
                self.discard().await;
                let engine = self
                    .engine
                    .insert(Engine::spawn(self.engine_config()).await?);
                engine.load(load).await?;
            }
            loaded => loaded?,
        }
        self.loaded = Some(model);
        Ok(())
    }

    /// Begins a render of the model that is loaded.
    pub fn begin(
        &mut self,
        request: RenderRequest,
        spec: &TaskSpec,
    ) -> Result<Render<'_>, EngineError> {
        let engine = self.engine.as_mut().ok_or(EngineError::NotRunning)?;
        let gpu = engine.hello().device.as_deref().and_then(Gpu::of_device);
        let step =
            gpu.and_then(|gpu| Duration::try_from_secs_f64(Job::of(spec).step_seconds(gpu)).ok());
        engine.render(request, step)
    }

    /// After each render, and each start that failed: what its end means for the engine. False: this machine's accelerator
    /// has failed for good.
    pub async fn judge(&mut self, error: Option<&EngineError>) -> bool {
        let failure = error.and_then(EngineError::failure);
        if error.is_some() && !failure.is_some_and(|failure| failure.engine_alive) {
            self.discard().await;
        }
        self.device_failures = match failure.map(|failure| failure.kind) {
            Some(ErrorKind::Device) => self.device_failures + 1,
            _ => 0,
        };
        self.device_failures < DEVICE_FAILURES
    }

    pub async fn discard(&mut self) {
        self.loaded = None;
        if let Some(engine) = self.engine.take() {
            engine.shutdown(SHUTDOWN_GRACE).await;
        }
    }

    fn engine_config(&self) -> EngineConfig {
        let (program, args) = self
            .config
            .command
            .split_first()
            .map_or(("", &[][..]), |(p, rest)| (p.as_str(), rest));
        EngineConfig {
            args: args.to_vec(),
            deadlines: self.config.deadlines.clone(),
            graces: self.config.graces.clone(),
            ..EngineConfig::new(beside_this_program(program).unwrap_or_else(|| program.into()))
        }
    }
}

fn beside_this_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let path = std::env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then_some(path)
}

/// Why an engine did not start, with its own last words.
fn told(error: &EngineError) -> String {
    let mut reason = spotreel_domain::chain(error);
    let EngineError::Failed(failure) = error else {
        return reason;
    };
    let lines = failure.log_tail.iter().map(|line| line.trim());
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    if !last.is_empty() {
        // The last line first, since what is told gets cut off at its end: a traceback names its error last.
        let words: Vec<_> = last.iter().rev().copied().collect();
        let words: String = words.join(" | ").chars().take(LAST_WORDS).collect();
        reason += &format!("; it said: {words}");
    }
    reason
}
