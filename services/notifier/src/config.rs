//! The configuration, as `notifier.toml` explains it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_s3::StoreConfig;

use crate::error::StartError;

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
    pub nats: NatsConfig,
    pub s3: StoreConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

impl Config for NotifierConfig {
    fn common(&self) -> Common<'_> {
        Common {
            http: &self.http,
            telemetry: &self.telemetry,
            shutdown: &self.shutdown,
        }
    }
}

impl NotifierConfig {
    /// What serde cannot say about the values.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |key, rule| Err(StartError::Config { key, rule });
        if !(Duration::from_secs(1)..=LONGEST_LINK).contains(&self.link_expires) {
            return refuse("link_expires", "is one second to seven days, S3's limit");
        }
        if self.pull_wait.is_zero() || self.retry_first.is_zero() {
            return refuse(
                "pull_wait and retry_first",
                "are more than nothing: the loop would spin",
            );
        }
        if self.retry_longest < self.retry_first {
            return refuse("retry_longest", "is no shorter than retry_first");
        }
        Ok(())
    }
}
