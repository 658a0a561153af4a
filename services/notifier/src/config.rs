//! The configuration, as `notifier.toml` explains it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::require;
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_domain::webhook::{AllowedHosts, GiveUp, RetrySchedule};
use spotreel_s3::StoreConfig;

/// Twice the time after which monitor stores its record anew.
const SHORTEST_SILENCE: Duration = Duration::from_secs(120);
/// S3's own limit for a presigned link.
const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);
/// A delivery has to end before its lease does, which is a minute for callbacks.
const LONGEST_DEADLINE: Duration = Duration::from_secs(30);
/// Each of them is an open pull.
const MOST_AT_ONCE: usize = 64;

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
    pub webhooks: WebhooksConfig,
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

/// The section `[webhooks]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    pub allow_hosts: AllowedHosts,
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    pub retries: RetrySchedule,
    pub at_once: usize,
    pub callbacks_at_once: usize,
    #[serde(with = "humantime_serde")]
    pub warn_after: Duration,
    #[serde(with = "humantime_serde")]
    pub disable_after: Duration,
    #[serde(with = "humantime_serde")]
    pub secret_overlap: Duration,
}

impl WebhooksConfig {
    pub fn give_up(&self) -> GiveUp {
        GiveUp {
            warn_after: self.warn_after,
            disable_after: self.disable_after,
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        require(
            !self.deadline.is_zero() && self.deadline <= LONGEST_DEADLINE,
            "webhooks.deadline",
            "must be greater than zero, and at most 30 seconds",
        )?;
        require(
            self.retries.delays().iter().all(|delay| !delay.is_zero()),
            "webhooks.retries",
            "must be a list of delays greater than zero",
        )?;
        require(
            (1..=MOST_AT_ONCE).contains(&self.at_once)
                && (1..=MOST_AT_ONCE).contains(&self.callbacks_at_once),
            "webhooks.at_once and webhooks.callbacks_at_once",
            "must be 1 to 64",
        )?;
        require(
            self.warn_after < self.disable_after,
            "webhooks.warn_after",
            "must be shorter than webhooks.disable_after",
        )?;
        Ok(())
    }
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
        self.webhooks.validate()?;
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
