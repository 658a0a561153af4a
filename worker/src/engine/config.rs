//! How an engine is started and how long anything may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to run and how to watch it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// The program; looked up in PATH when it holds no slash.
    pub command: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    /// Added to the short list of variables that engines inherit. Never credentials.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub deadlines: Deadlines,
    #[serde(default)]
    pub graces: Graces,
}

impl EngineConfig {
    /// A command with everything else as usual.
    #[must_use]
    pub fn new(command: impl Into<PathBuf>) -> Self {
        Self {
            command: command.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            deadlines: Deadlines::default(),
            graces: Graces::default(),
        }
    }
}

/// What an engine is to have ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    pub model: String,
    /// How it lies in memory; `None` lets the engine choose.
    pub profile: Option<String>,
    /// The directory of packs; `None`: the engine knows one.
    pub pack_dir: Option<PathBuf>,
    /// The files there were held against their hashes.
    pub verified: bool,
    /// Files of the pack that are still on their way.
    pub arriving: Vec<PathBuf>,
}

impl Load {
    #[must_use]
    pub fn of(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            ..Self::default()
        }
    }

    /// Whether one leaves the engine as the other does, once everything has arrived.
    pub(super) fn amounts_to(&self, other: &Self) -> bool {
        let result = |load: &Self| {
            (
                load.model.clone(),
                load.profile.clone(),
                load.pack_dir.clone(),
            )
        };
        result(self) == result(other)
    }
}

/// `import torch` and diffusers' pipelines take 10 s on a good disk; a cold one is several times slower.
const HANDSHAKE: Duration = Duration::from_secs(120);
/// 57 GB of weights at 50 MB/s, the slowest volume in use.
const LOAD: Duration = Duration::from_secs(20 * 60);
/// Text encoding, the first run of every kernel, and compilation where it is on.
const FIRST_STEP: Duration = Duration::from_secs(15 * 60);
/// Below this a busy disk or a collected checkpoint would look like a hang.
const STEP_FLOOR: Duration = Duration::from_secs(60);
/// Thermal throttling and a neighbour's load slow steps by 2 or 3, never by 6.
const STEP_FACTOR: f64 = 6.0;
/// Tiled decoding at 720p and encoding on 4 slow cores.
const DECODE: Duration = Duration::from_secs(15 * 60);

/// The longest that each phase may stay silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    #[serde(with = "humantime_serde")]
    pub load: Duration,
    /// From the request to the end of its first step.
    #[serde(with = "humantime_serde")]
    pub first_step: Duration,
    /// Later steps get the larger of this and `step_factor` × their median.
    #[serde(with = "humantime_serde")]
    pub step_floor: Duration,
    pub step_factor: f64,
    /// From the last step or phase to the finished file.
    #[serde(with = "humantime_serde")]
    pub decode: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            handshake: HANDSHAKE,
            load: LOAD,
            first_step: FIRST_STEP,
            step_floor: STEP_FLOOR,
            step_factor: STEP_FACTOR,
            decode: DECODE,
        }
    }
}

impl Deadlines {
    /// Deadlines for steps of this expected time: the same multiple of it as for any other step.
    #[must_use]
    pub fn for_step(mut self, step: Option<Duration>) -> Self {
        let expected = step.unwrap_or_default().mul_f64(self.step_factor);
        self.first_step = self.first_step.max(expected);
        self
    }
}

/// How long each step on the way to SIGKILL is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Graces {
    /// After SIGUSR1, for stacks to reach the log.
    #[serde(with = "humantime_serde")]
    pub dump: Duration,
    /// After SIGTERM.
    #[serde(with = "humantime_serde")]
    pub terminate: Duration,
    /// For an engine that closed its channel, or said that it must restart, to exit by itself.
    #[serde(with = "humantime_serde")]
    pub hang_up: Duration,
}

impl Default for Graces {
    fn default() -> Self {
        Self {
            // Python's faulthandler writes all stacks in milliseconds, unless the disk is slow.
            dump: Duration::from_secs(2),
            // A CUDA context with 80 GB takes seconds to tear down.
            terminate: Duration::from_secs(10),
            hang_up: Duration::from_secs(5),
        }
    }
}
