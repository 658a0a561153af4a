//! Keeps one engine process running with the wanted model loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use backoff::backoff::Backoff;
use spotreel_bootstrap::Health;
use spotreel_bus::Delivery;
use spotreel_domain::render_time::{Gpu, Job, Weights, needed_gb};
use spotreel_domain::request::TaskSpec;
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_domain::{Model, Quality};
use spotreel_packs::Index;
use tokio_util::sync::CancellationToken;

use crate::config::EngineSection;
use crate::engine::protocol::{EngineHello, ErrorKind, FEATURE_LORAS, RenderRequest};
use crate::engine::{Blame, Engine, EngineConfig, EngineError, EngineFailure, Load, Render};

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

/// Work items kept in mind; one that is forgotten is declined once more.
const DECLINED_KEPT: usize = 10_000;

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
    /// By model, the fewest tokens that did not fit, and what was said of them.
    too_large: BTreeMap<Model, (u32, EngineFailure)>,
    /// The work items that were declined for their size.
    declined: BTreeSet<u64>,
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
            too_large: BTreeMap::new(),
            declined: BTreeSet::new(),
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
                    if !self.judge(Some(&failure(error))).await {
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
    pub fn cannot(&self, spec: &TaskSpec) -> Option<EngineFailure> {
        let job = Job::of(spec);
        let known = self.too_large.get(&spec.model);
        if let Some((_, failure)) = known.filter(|(least, _)| job.tokens() >= *least) {
            return Some(failure.clone());
        }
        // A person who names a profile knows better.
        let device = self.hello().filter(|_| self.config.profile.is_empty())?;
        beyond(Gpu::of_device(device.device.as_deref()?)?, &job)
    }

    /// Four steps without distilled weights are noise, which the gate could take for a picture. Where the worker keeps
    /// the packs, it knows what is in them; else the engine does.
    pub fn lacks_fast(&self, spec: &TaskSpec, pack: Option<&Index>) -> Option<EngineFailure> {
        lacking(self.hello()?, pack, spec.model, spec.quality?)
    }

    /// A video without what the task names would be another video.
    pub fn lacks_loras(&self, spec: &TaskSpec) -> Option<EngineFailure> {
        let hello = self.hello()?;
        if spec.loras.is_empty() || hello.has(FEATURE_LORAS) {
            return None;
        }
        let message = format!("the engine {} merges no LoRAs: leave them out", hello.name);
        Some(EngineFailure {
            kind: ErrorKind::Invalid,
            code: "loras".into(),
            ..gone(&message)
        })
    }

    pub fn declines(&mut self, delivery: &Delivery) {
        if self.declined.len() == DECLINED_KEPT {
            self.declined.pop_first();
        }
        self.declined.insert(delivery.sequence);
    }

    pub fn has_declined(&self, delivery: &Delivery) -> bool {
        self.declined.contains(&delivery.sequence)
    }

    /// Keeps in mind what did not fit.
    pub fn remember(&mut self, spec: &TaskSpec, failure: &EngineFailure) {
        if failure.does_not_fit() {
            let tokens = Job::of(spec).tokens();
            let known = self.too_large.get(&spec.model);
            if known.is_none_or(|(least, _)| tokens < *least) {
                let mut failure = failure.clone();
                failure.log_tail.clear();
                self.too_large.insert(spec.model, (tokens, failure));
            }
        }
    }

    /// The engine's next profile that takes less memory; none where a profile is configured.
    pub fn lower_profile(&self) -> Option<String> {
        let free = self.config.profile.is_empty();
        let lower = self.engine.as_ref().filter(|_| free)?.lower_profile()?;
        Some(lower.to_owned())
    }

    /// Has the engine load a model.
    pub async fn load(&mut self, model: Model, load: Load) -> Result<(), EngineFailure> {
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
                    .insert(Engine::spawn(self.engine_config()).await.map_err(failure)?);
                engine.load(load).await.map_err(failure)?;
            }
            loaded => loaded.map_err(failure)?,
        }
        self.loaded = Some(model);
        Ok(())
    }

    /// Begins a render of the model that is loaded.
    pub fn begin(
        &mut self,
        request: RenderRequest,
        spec: &TaskSpec,
    ) -> Result<Render<'_>, EngineFailure> {
        let engine = self.engine.as_mut();
        let engine = engine.ok_or_else(|| EngineFailure {
            engine_alive: false,
            ..gone("no engine is running")
        })?;
        let gpu = engine.hello().device.as_deref().and_then(Gpu::of_device);
        let step =
            gpu.and_then(|gpu| Duration::try_from_secs_f64(Job::of(spec).step_seconds(gpu)).ok());
        engine.render(request, step).map_err(failure)
    }

    /// After each render, and each start that failed: what its end means for the engine. False: this machine's accelerator has failed for good.
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

fn lacking(
    hello: &EngineHello,
    pack: Option<&Index>,
    model: Model,
    quality: Quality,
) -> Option<EngineFailure> {
    let (has, whose) = match pack {
        Some(pack) => (pack.fast.is_some(), format!("the pack of {model}")),
        None => (
            hello.renders_fast(model.as_str()),
            format!("the engine {}", hello.name),
        ),
    };
    if !quality.needs_distilled_weights() || has {
        return None;
    }
    let message = format!("{whose} has no distilled weights for {quality}: submit it as standard");
    Some(EngineFailure {
        kind: ErrorKind::Invalid,
        code: "quality".into(),
        ..gone(&message)
    })
}

/// What a card has no memory for.
fn beyond(gpu: Gpu, job: &Job) -> Option<EngineFailure> {
    if gpu.weights(job).is_some() {
        return None;
    }
    let Job {
        model,
        width,
        height,
        frames,
        ..
    } = job;
    let (card, has) = (gpu.name(), gpu.memory_gb());
    let message = format!(
        "{model} with {width}x{height} and {frames} frames does not fit on {card} with {has} GB"
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "memory is far below 2^53 bytes"
    )]
    let needed = (needed_gb(job, Weights::Float8) * 1e9) as u64;
    Some(EngineFailure {
        kind: ErrorKind::Oom,
        code: "does_not_fit".into(),
        needed_bytes: Some(needed),
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
        needed_bytes: None,
        stepped: false,
    }
}

pub fn failure(error: EngineError) -> EngineFailure {
    match error {
        EngineError::Failed(failure) => *failure,
        other => EngineFailure {
            engine_alive: false,
            ..gone(&spotreel_domain::chain(&other))
        },
    }
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

/// The engine's word for a failure in the task's record, with the last lines of its log.
pub fn record(failure: &EngineFailure) -> Failure {
    /// As much of the log as helps a person; the whole state travels in every event.
    const LOG_LINES: usize = 5;
    const LOG_BYTES: usize = 1_000;
    let kind = match failure.kind {
        _ if failure.blame() == Blame::Surroundings => FailureKind::Storage,
        ErrorKind::Retryable if failure.blame() == Blame::Worker => FailureKind::Worker,
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::Oom => FailureKind::Oom,
        ErrorKind::Model => FailureKind::Model,
        ErrorKind::Device => FailureKind::Device,
        ErrorKind::Checkpoint => FailureKind::Checkpoint,
        ErrorKind::Internal | ErrorKind::Protocol => FailureKind::Internal,
        ErrorKind::Retryable | ErrorKind::Cancelled => FailureKind::Retryable,
    };
    let mut message = format!("{} ({})", failure.message, failure.code);
    if let Some(needed) = failure.needed_bytes {
        message.push_str(&advice(needed));
    }
    let tail = failure.log_tail.iter().rev().take(LOG_LINES).rev();
    let tail: String = tail.map(|line| format!("\n{line}")).collect();
    message.extend(tail.chars().take(LOG_BYTES));
    Failure { kind, message }
}

/// What machine would do.
fn advice(needed: u64) -> String {
    let gigabytes = needed.div_ceil(1_000_000_000);
    match Gpu::smallest_with(needed) {
        Some(gpu) => {
            let (name, has) = (gpu.name(), gpu.memory_gb());
            format!(
                "; it takes {gigabytes} GB of GPU memory: the smallest that has it is the {name} with {has} GB"
            )
        }
        None => format!(
            "; it takes {gigabytes} GB of GPU memory, which no single GPU has: ask for fewer pixels or frames"
        ),
    }
}

#[cfg(test)]
mod tests {
    use spotreel_bootstrap::ambient;
    use spotreel_domain::TaskRequest;

    use super::*;

    const MODEL: Model = Model::T2vA14b;

    #[test]
    fn fast_is_refused_where_the_engine_has_no_weights_for_it() {
        let mut hello = EngineHello {
            name: "wan".into(),
            features: vec!["exact_resume".into()],
            ..EngineHello::default()
        };
        for quality in [Quality::Standard, Quality::Best] {
            assert_eq!(lacking(&hello, None, MODEL, quality), None);
        }
        let failure = lacking(&hello, None, MODEL, Quality::Fast).unwrap();
        assert!(failure.engine_alive, "the next task is welcome");
        let failure = record(&failure);
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(!failure.kind.may_be_retried());
        assert!(failure.message.contains("wan has no distilled weights"));
        hello.features.push("fast:t2v-A14B".into());
        assert_eq!(lacking(&hello, None, MODEL, Quality::Fast), None);
        assert!(lacking(&hello, None, Model::I2vA14b, Quality::Fast).is_some());
    }

    #[test]
    fn a_pack_that_the_worker_keeps_decides_and_not_the_engine() {
        let index = serde_json::json!({
            "format": "wanpack/1", "model": "t2v-A14B", "compute": "bfloat16", "source": {}, "license": "", "files": [],
        });
        let mut index: Index = serde_json::from_value(index).unwrap();
        let hello = EngineHello {
            features: vec!["fast".into()],
            ..EngineHello::default()
        };
        let failure = lacking(&hello, Some(&index), MODEL, Quality::Fast).unwrap();
        assert!(failure.message.contains("the pack of t2v-A14B"));
        let fast = serde_json::json!({"loras": {}, "source": {}, "license": ""});
        index.fast = serde_json::from_value(fast).unwrap();
        assert_eq!(
            lacking(&EngineHello::default(), Some(&index), MODEL, Quality::Fast),
            None
        );
    }

    #[test]
    fn what_the_card_cannot_hold_is_left_to_others_before_anything_is_pulled() {
        let job = |frames| Job {
            frames,
            ..Job::smallest_usual(MODEL)
        };
        assert_eq!(beyond(Gpu::L40s, &job(81)), None);
        assert_eq!(beyond(Gpu::L4, &job(45)), None, "with quantised weights");
        let failure = beyond(Gpu::L4, &job(81)).unwrap();
        assert!(failure.does_not_fit() && failure.blame() == Blame::Worker);
        let said = record(&failure).message;
        assert!(
            said.contains("it takes 30 GB") && said.contains("A100 with 40 GB"),
            "{said}"
        );
    }

    #[test]
    fn what_did_not_fit_is_refused_again_with_what_it_would_take() {
        let request = TaskRequest {
            model: MODEL.as_str().into(),
            prompt: "a red fox".into(),
            ..TaskRequest::default()
        };
        let large = request.validate(ambient::now()).unwrap().spec;
        let small = TaskSpec {
            frames: 5,
            ..large.clone()
        };
        let section = EngineSection {
            command: Vec::new(),
            profile: String::new(),
            deadlines: Default::default(),
            graces: Default::default(),
        };
        let mut host = Host::new(section, Health::new(), true);
        let failure = EngineFailure {
            kind: ErrorKind::Oom,
            code: "does_not_fit".into(),
            needed_bytes: Some(46_000_000_000),
            ..gone("1280x720, 81 frames do not fit on NVIDIA L4")
        };
        let passing = EngineFailure {
            code: "out_of_memory".into(),
            ..failure.clone()
        };
        host.remember(&large, &passing);
        assert_eq!(host.cannot(&large), None, "that may go well another time");
        host.remember(&large, &failure);
        assert_eq!(host.cannot(&large), Some(failure.clone()));
        assert_eq!(host.cannot(&small), None);
        let other = TaskSpec {
            model: Model::I2vA14b,
            ..large.clone()
        };
        assert_eq!(host.cannot(&other), None);
        let said = record(&failure);
        assert_eq!(said.kind, FailureKind::Oom);
        assert!(
            said.message.contains("46 GB") && said.message.contains("L40S with 48 GB"),
            "{}",
            said.message
        );
        assert_eq!(
            (failure.blame(), passing.blame()),
            (Blame::Worker, Blame::Task)
        );
        assert!(advice(200_000_000_000).contains("no single GPU"));
    }
}
