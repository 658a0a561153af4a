//! The configuration, as `monitor.toml` explains it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_s3::StoreConfig;

use crate::error::StartError;

/// Half of the age at which trigger and fleet stop trusting the mark: one may be late.
const RAREST_MARK: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    pub inbox: InboxConfig,
    pub sweeper: SweeperConfig,
    pub janitor: JanitorConfig,
    pub net: NetConfig,
    pub deadlines: DeadlinesConfig,
    pub reconcile: ReconcileConfig,
    pub disk: DiskConfig,
    pub nats: NatsConfig,
    pub s3: StoreConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    #[serde(with = "humantime_serde")]
    pub pull_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweeperConfig {
    pub concurrent: usize,
    #[serde(with = "humantime_serde")]
    pub mark_every: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JanitorConfig {
    pub concurrent: usize,
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_finished: Duration,
    #[serde(with = "humantime_serde")]
    pub remove_every: Duration,
    #[serde(with = "humantime_serde")]
    pub room_every: Duration,
    pub room_percent: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadlinesConfig {
    pub concurrent: usize,
    #[serde(with = "humantime_serde")]
    pub longest_wait: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    pub log_warn_percent: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    pub least_free_gb: u64,
}

impl Config for MonitorConfig {
    fn common(&self) -> Common<'_> {
        Common {
            http: &self.http,
            telemetry: &self.telemetry,
            shutdown: &self.shutdown,
        }
    }
}

impl MonitorConfig {
    /// What serde cannot say about the values.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |key, rule| Err(StartError::Config { key, rule });
        for (key, duration) in [
            ("inbox.pull_wait", self.inbox.pull_wait),
            ("inbox.retry_after", self.inbox.retry_after),
            ("sweeper.mark_every", self.sweeper.mark_every),
            ("janitor.remove_every", self.janitor.remove_every),
            ("janitor.room_every", self.janitor.room_every),
            ("net.every", self.net.every),
            ("deadlines.longest_wait", self.deadlines.longest_wait),
            ("reconcile.every", self.reconcile.every),
        ] {
            if duration.is_zero() {
                return refuse(key, "is more than nothing: the loop would spin");
            }
        }
        for (key, concurrent) in [
            ("sweeper.concurrent", self.sweeper.concurrent),
            ("janitor.concurrent", self.janitor.concurrent),
            ("deadlines.concurrent", self.deadlines.concurrent),
        ] {
            if concurrent == 0 {
                return refuse(key, "is at least 1");
            }
        }
        if self.sweeper.mark_every > RAREST_MARK {
            return refuse(
                "sweeper.mark_every",
                "is at most 15s: counts are trusted for 30 s after a mark",
            );
        }
        if self.janitor.keep_finished < self.janitor.grace {
            return refuse("janitor.keep_finished", "is no shorter than janitor.grace");
        }
        if !(1..=100).contains(&self.janitor.room_percent) {
            return refuse("janitor.room_percent", "is 1 to 100");
        }
        if !(1..=100).contains(&self.reconcile.log_warn_percent) {
            return refuse("reconcile.log_warn_percent", "is 1 to 100");
        }
        Ok(())
    }
}
