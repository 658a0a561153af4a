//! Configuration: `worker.toml` has every key with its meaning.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::require;
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig, ambient};
use spotreel_bus::{NatsConfig, names};
use spotreel_domain::Model;
use spotreel_s3::StoreConfig;

use crate::engine::{Deadlines, Graces};
use crate::machine::cloud::CloudSection;
use crate::machine::idle::IdleSection;
use crate::packs::PacksSection;
use crate::task::interruption::InterruptionPolicy;

/// Durations are multiplied by them: a negative or an endless one has no product.
const FACTORS: RangeInclusive<f64> = 0.0..=1_000.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    pub name: String,
    pub instance: String,
    pub models: Vec<Model>,
    pub scratch: String,
    #[serde(with = "humantime_serde")]
    pub pull_wait: Duration,
    pub engine: EngineSection,
    pub packs: PacksSection,
    pub checkpoint: CheckpointSection,
    pub preview: PreviewSection,
    pub retry: RetrySection,
    pub stop: StopSection,
    pub cloud: CloudSection,
    pub salvage: InterruptionPolicy,
    pub idle: IdleSection,
    pub nats: NatsConfig,
    pub s3: StoreConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    pub command: Vec<String>,
    pub profile: String,
    #[serde(default)]
    pub deadlines: Deadlines,
    #[serde(default)]
    pub graces: Graces,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSection {
    pub every_steps: u32,
    #[serde(with = "humantime_serde")]
    pub min_interval: Duration,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewSection {
    pub every_steps: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySection {
    pub scale: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopSection {
    #[serde(with = "humantime_serde")]
    pub finish_within: Duration,
}

impl Config for WorkerConfig {
    fn common(&self) -> Common<'_> {
        Common {
            http: &self.http,
            telemetry: &self.telemetry,
            shutdown: &self.shutdown,
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        self.nats.check()?;
        require(
            !self.models.is_empty(),
            "models",
            "must name at least one model",
        )?;
        require(
            !self.engine.command.is_empty(),
            "engine.command",
            "must name a program",
        )?;
        for (key, duration) in [
            ("pull_wait", self.pull_wait),
            ("cloud.poll", self.cloud.poll),
        ] {
            require(!duration.is_zero(), key, "must be greater than zero")?;
        }
        require(
            self.packs.connections > 0,
            "packs.connections",
            "must be at least 1",
        )?;
        for (key, factor) in [
            ("retry.scale", self.retry.scale),
            ("salvage.safety", self.salvage.safety),
            (
                "engine.deadlines.step_factor",
                self.engine.deadlines.step_factor,
            ),
        ] {
            require(FACTORS.contains(&factor), key, "must be 0 to 1,000")?;
        }
        Ok(())
    }
}

impl WorkerConfig {
    /// The name is a key of the workers' bucket, so it is kept to what a subject token may hold.
    pub fn effective_name(&self) -> String {
        let name = match self.name.as_str() {
            "" => format!("{}-{:08x}", host_name(), ambient::random_u64() >> 32),
            name => name.to_owned(),
        };
        names::token(&name)
    }

    /// `told`: what the cloud calls the machine.
    pub fn effective_instance(&self, told: Option<&str>) -> String {
        match (self.instance.as_str(), told) {
            ("", Some(told)) => told.to_owned(),
            ("", None) => host_name(),
            (instance, _) => instance.to_owned(),
        }
    }

    pub fn effective_scratch(&self, name: &str) -> PathBuf {
        match self.scratch.as_str() {
            "" => std::env::temp_dir().join(format!("spotreel-{name}")),
            scratch => PathBuf::from(scratch),
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".into())
}
