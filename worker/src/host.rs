//! Keeps one engine process running with the wanted model loaded.

use std::path::PathBuf;
use std::time::Duration;

use backoff::backoff::Backoff;
use spotreel_bootstrap::Health;
use spotreel_domain::request::TaskSpec;
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_domain::{Model, Quality};
use tokio_util::sync::CancellationToken;

use crate::config::EngineSection;
use crate::engine::protocol::{EngineHello, ErrorKind, FEATURE_FAST};
use crate::engine::{Engine, EngineConfig, EngineError, EngineFailure};

/// An engine that is told to end has so long to do it by itself.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
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
        Self {
            config,
            health,
            engine: None,
            loaded: None,
            device_failures: 0,
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

    /// A running engine, started anew with growing pauses for as long as it takes. No task is taken before there is
    /// one: an engine that cannot start must not use up the attempts of the queue.
    pub async fn ready(&mut self, stopping: &CancellationToken) -> bool {
        let mut pauses = backoff::ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(200))
            .with_max_interval(Duration::from_secs(30))
            .with_max_elapsed_time(None)
            .build();
        loop {
            if self.engine.as_ref().is_some_and(Engine::is_alive) {
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

    /// What no try on an engine like this one will render. Four steps without distilled weights are noise, which the
    /// gate could take for a picture.
    pub fn cannot(&self, spec: &TaskSpec) -> Option<EngineFailure> {
        lacking(self.engine.as_ref()?.hello(), spec.quality?)
    }

    /// The engine with `model` loaded.
    pub async fn with_model(&mut self, model: Model) -> Result<&mut Engine, EngineFailure> {
        // An engine whose last render was given up half-way is of no more use, and may not know it yet.
        let loaded = match &mut self.engine {
            Some(engine) => engine.load(model.as_str()).await,
            None => Err(EngineError::Abandoned),
        };
        self.loaded = None;
        match loaded {
            Err(EngineError::Abandoned) => {
                self.discard().await;
                let engine = self
                    .engine
                    .insert(Engine::spawn(self.engine_config()).await.map_err(failure)?);
                engine.load(model.as_str()).await.map_err(failure)?;
            }
            loaded => loaded.map_err(failure)?,
        }
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| gone("no engine is running"))?;
        self.loaded = Some(model);
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

fn lacking(hello: &EngineHello, quality: Quality) -> Option<EngineFailure> {
    if !quality.needs_distilled_weights() || hello.features.iter().any(|name| name == FEATURE_FAST)
    {
        return None;
    }
    let engine = &hello.name;
    let message = format!(
        "the engine {engine} has no distilled weights for {quality}: submit it as standard"
    );
    Some(EngineFailure {
        kind: ErrorKind::Invalid,
        code: "quality".into(),
        ..gone(&message)
    })
}

fn beside_this_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let path = std::env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then_some(path)
}

/// A failure of the worker's own, in the engine's words.
pub fn gone(message: &str) -> EngineFailure {
    EngineFailure {
        kind: ErrorKind::Retryable,
        code: "worker".into(),
        message: message.to_owned(),
        log_tail: std::collections::VecDeque::new(),
        engine_alive: true,
    }
}

pub fn failure(error: EngineError) -> EngineFailure {
    match error {
        EngineError::Failed(failure) => *failure,
        other => EngineFailure {
            engine_alive: false,
            ..gone(&crate::checkpoints::chain(&other))
        },
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_is_refused_where_the_engine_has_no_weights_for_it() {
        let mut hello = EngineHello {
            name: "wan".into(),
            features: vec!["exact_resume".into()],
            ..EngineHello::default()
        };
        for quality in [Quality::Standard, Quality::Best] {
            assert_eq!(lacking(&hello, quality), None);
        }
        let failure = lacking(&hello, Quality::Fast).unwrap();
        assert!(failure.engine_alive, "the next task is welcome");
        let failure = record(&failure);
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(!failure.kind.may_be_retried());
        assert!(failure.message.contains("wan has no distilled weights"));
        hello.features.push(FEATURE_FAST.into());
        assert_eq!(lacking(&hello, Quality::Fast), None);
    }
}
