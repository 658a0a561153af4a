//! The configuration, as `notifier.toml` explains it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::require;
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_s3::StoreConfig;

/// Twice the time after which monitor stores its record anew.
const SHORTEST_SILENCE: Duration = Duration::from_secs(120);
/// S3's own limit for a presigned link.
const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifierConfig {
    #[serde(with = "humantime_serde")]
    pub link_expires: Duration,
    #[serde(with = "humantime_serde")]
    pub pull_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_first: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_longest: Duration,
    pub monitor_silence: SilenceConfig,
    pub nats: NatsConfig,
    pub s3: StoreConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceConfig {
    pub on: bool,
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub after: Duration,
}

impl Config for NotifierConfig {
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
            (Duration::from_secs(1)..=LONGEST_LINK).contains(&self.link_expires),
            "link_expires",
            "must be 1 second to 7 days, S3's limit",
        )?;
        require(
            !self.pull_wait.is_zero() && !self.retry_first.is_zero(),
            "pull_wait and retry_first",
            "must be greater than zero",
        )?;
        require(
            self.retry_longest >= self.retry_first,
            "retry_longest",
            "must not be shorter than retry_first",
        )?;
        require(
            !self.monitor_silence.every.is_zero(),
            "monitor_silence.every",
            "must be greater than zero",
        )?;
        require(
            self.monitor_silence.after >= SHORTEST_SILENCE,
            "monitor_silence.after",
            "must be at least 2m: monitor stores its record once a minute",
        )?;
        Ok(())
    }
}
