//! The configuration, as `monitor.toml` explains it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::require;
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_domain::alarm::AlarmsConfig;
use spotreel_s3::StoreConfig;

/// Half of the age at which trigger and fleet stop trusting the mark: one may be late.
const RAREST_MARK: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    pub inbox: ConsumerConfig,
    pub sweeper: SweeperConfig,
    pub janitor: JanitorConfig,
    pub net: NetConfig,
    pub deadlines: DeadlinesConfig,
    pub ledger: LedgerConfig,
    pub reconcile: ReconcileConfig,
    pub disk: DiskConfig,
    pub search: SearchConfig,
    pub alarms: AlarmsConfig,
    pub nats: NatsConfig,
    pub s3: StoreConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
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
pub struct LedgerConfig {
    pub concurrent: usize,
    #[serde(with = "humantime_serde")]
    pub every: Duration,
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

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub removed_every: Duration,
}

impl Config for MonitorConfig {
    fn common(&self) -> Common<'_> {
        Common {
            http: &self.http,
            telemetry: &self.telemetry,
            shutdown: &self.shutdown,
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        self.nats.check()?;
        for (key, duration) in [
            ("inbox.pull_wait", self.inbox.pull_wait),
            ("inbox.retry_after", self.inbox.retry_after),
            ("sweeper.mark_every", self.sweeper.mark_every),
            ("janitor.remove_every", self.janitor.remove_every),
            ("janitor.room_every", self.janitor.room_every),
            ("net.every", self.net.every),
            ("deadlines.longest_wait", self.deadlines.longest_wait),
            ("ledger.every", self.ledger.every),
            ("reconcile.every", self.reconcile.every),
            ("search.every", self.search.every),
            ("search.removed_every", self.search.removed_every),
        ] {
            require(!duration.is_zero(), key, "must be greater than zero")?;
        }
        for (key, concurrent) in [
            ("sweeper.concurrent", self.sweeper.concurrent),
            ("janitor.concurrent", self.janitor.concurrent),
            ("deadlines.concurrent", self.deadlines.concurrent),
            ("ledger.concurrent", self.ledger.concurrent),
        ] {
            require(concurrent > 0, key, "must be at least 1")?;
        }
        require(
            self.sweeper.mark_every <= RAREST_MARK,
            "sweeper.mark_every",
            "must be at most 15s: counts are trusted for 30 s after a mark",
        )?;
        require(
            self.janitor.keep_finished >= self.janitor.grace,
            "janitor.keep_finished",
            "must not be shorter than janitor.grace",
        )?;
        for (key, percent) in [
            ("janitor.room_percent", self.janitor.room_percent),
            (
                "reconcile.log_warn_percent",
                self.reconcile.log_warn_percent,
            ),
        ] {
            require((1..=100).contains(&percent), key, "must be 1 to 100")?;
        }
        for (is_kept, key, rule) in self.alarms.rules() {
            require(is_kept, key, rule)?;
        }
        Ok(())
    }
}
