//! Keeps one engine process running with the wanted model loaded.

use std::path::PathBuf;
use std::time::Duration;

use backoff::backoff::Backoff;
use spotreel_bootstrap::Health;
use spotreel_domain::Model;
use spotreel_domain::task::{Failure, FailureKind};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, EngineConfig, EngineFailure, ErrorKind};
use crate::config::EngineSection;

/// Accelerator failures in a row, with a new engine process each, until the machine is given up.
const DEVICE_FAILURES: u32 = 2;

pub struct Host {
    config: EngineSection,
    health: Health,
    engine: Option<Engine>,
    loaded: Option<Model>,
    device_failures: u32,
}

impl Host {
    pub fn new(config: EngineSection, health: Health) -> Self {
        Self { config, health, engine: None, loaded: None, device_failures: 0 }
    }

    pub fn loaded(&self) -> Option<Model> {
        self.loaded
    }

    /// A running engine, started anew with growing pauses for as long as it takes. No task is taken before there is
    /// one: an engine that cannot start must not use up the attempts of the queue.
    pub async fn ready(&mut self, stopping: &CancellationToken) -> bool {
        let mut pauses = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(200))
            .with_max_interval(Duration::from_secs(30))
            .with_max_elapsed_time(None)
            .build();
        loop {
            if self.engine.as_mut().is_some_and(Engine::is_alive) {
                return true;
            }
            self.discard().await;
            match Engine::spawn(self.engine_config()).await {
                Ok(engine) => {
                    self.health.set::<&str>("engine", Ok(()));
                    self.engine = Some(engine);
                    return true;
                }
                Err(error) => {
                    let reason = crate::checkpoints::chain(&error);
                    tracing::error!(error = reason, command = ?self.config.command, "the engine does not start");
                    self.health.set("engine", Err(reason));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next_backoff().unwrap_or(Duration::from_secs(30))) => {}
                () = stopping.cancelled() => return false,
            }
        }
    }

    /// The engine with `model` loaded.
    pub async fn with_model(&mut self, model: Model) -> Result<&mut Engine, EngineFailure> {
        let engine = self.engine.as_mut().ok_or_else(|| EngineFailure::gone("no engine is running"))?;
        if self.loaded != Some(model) {
            self.loaded = None;
            engine.load(model.as_str()).await?;
            self.loaded = Some(model);
        }
        Ok(engine)
    }

    /// After each render: what its end means for the engine. False: this machine's accelerator has failed for good.
    pub async fn judge(&mut self, failure: Option<&EngineFailure>) -> bool {
        let Some(failure) = failure else {
            self.device_failures = 0;
            return true;
        };
        if !failure.engine_alive {
            self.discard().await;
        }
        self.device_failures = match failure.kind {
            ErrorKind::Device => self.device_failures + 1,
            _ => 0,
        };
        self.device_failures < DEVICE_FAILURES
    }

    pub async fn discard(&mut self) {
        self.loaded = None;
        if let Some(engine) = self.engine.take() {
            engine.shutdown().await;
        }
    }

    fn engine_config(&self) -> EngineConfig {
        let mut command = self.config.command.clone();
        if let Some(program) = command.first_mut() {
            *program = beside_this_program(program).unwrap_or_else(|| program.clone());
        }
        EngineConfig { command, deadlines: self.config.deadlines.clone() }
    }
}

fn beside_this_program(name: &str) -> Option<String> {
    if name.contains('/') {
        return None;
    }
    let path: PathBuf = std::env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

/// The engine's word for a failure in the task's record, with the last lines of its log.
pub fn record(failure: &EngineFailure) -> Failure {
    /// As much of the log as helps a person; the whole state travels in every event.
    const LOG_LINES: usize = 5;
    const LOG_BYTES: usize = 1_000;
    let kind = match failure.kind {
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::Oom => FailureKind::Oom,
        ErrorKind::Model => FailureKind::Model,
        ErrorKind::Device => FailureKind::Device,
        ErrorKind::Checkpoint => FailureKind::Checkpoint,
        ErrorKind::Internal | ErrorKind::Protocol => FailureKind::Internal,
        ErrorKind::Retryable | ErrorKind::Cancelled => FailureKind::Retryable,
    };
    let mut message = format!("{} ({})", failure.message, failure.code);
    let tail = failure.log_tail.iter().rev().take(LOG_LINES).rev();
    let tail: String = tail.map(|line| format!("\n{line}")).collect();
    message.extend(tail.chars().take(LOG_BYTES));
    Failure { kind, message }
}
