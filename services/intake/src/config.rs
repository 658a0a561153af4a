//! The configuration, as `intake.toml` explains it.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use spotreel_api::MAX_TASKS_PER_CALL;
use spotreel_bootstrap::config::require;
use spotreel_bootstrap::{
    Common, Config, ConfigError, HttpConfig, ShutdownConfig, TelemetryConfig,
};
use spotreel_bus::NatsConfig;
use spotreel_bus::log::MAX_BATCH;
use spotreel_domain::Model;
use spotreel_domain::webhook::AllowedHosts;
use spotreel_s3::StoreConfig;

/// The largest body over HTTP: a picture of 20 MB in base64, and what stands around it.
pub const LARGEST_BODY: usize = 28 << 20;

/// `max_payload` of deploy/nats/nats-server.conf, and what a delivery has besides: its subjects.
pub const LARGEST_MESSAGE_MIB: usize = 9;

const LINK_LASTS_AT_LEAST: Duration = Duration::from_secs(1);
/// S3's own limit for a presigned link.
const LINK_LASTS_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntakeConfig {
    pub concurrent_requests: usize,
    pub request_memory_mib: usize,
    pub request_mib_per_second: u32,
    pub nats: NatsConfig,
    pub s3: S3Config,
    pub commit: CommitConfig,
    pub limits: LimitsConfig,
    pub quality: QualityConfig,
    pub packs: PacksConfig,
    pub webhooks: WebhooksConfig,
    pub inbox: InboxConfig,
    pub api: ApiConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

/// The store's own keys, and how long links to it last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    pub bucket: String,
    pub region: String,
    #[serde(default)]
    pub endpoint_url: Option<String>,
    pub force_path_style: bool,
    #[serde(default)]
    pub public_endpoint_url: Option<String>,
    #[serde(with = "humantime_serde")]
    pub link_lasts: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitConfig {
    pub in_flight: usize,
    pub largest_batch: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    pub tasks_per_second: u32,
    pub burst: u32,
    pub max_queued: u64,
    pub max_queued_per_owner: u64,
    pub front_per_owner: u64,
    pub log_room_percent: u64,
    pub owner_log_percent: u64,
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// What the workers of this intake can render.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityConfig {
    pub fast: Vec<Model>,
}

/// Where the models' packs and the LoRAs are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacksConfig {
    pub bucket: String,
    pub prefix: String,
}

/// Where a `callback_url` may lead, beside public hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    pub allow_hosts: AllowedHosts,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxConfig {
    pub in_flight: usize,
    pub memory_mib: usize,
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

/// The HTTP API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    pub listen: SocketAddr,
    pub auth: Auth,
    pub allow_origins: Vec<String>,
    pub connections: usize,
    pub concurrent_requests: usize,
    pub uploads: usize,
    pub followers: usize,
    pub body_memory_mib: usize,
    pub owner_share_percent: usize,
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    Keys,
    Off,
}

impl Config for IntakeConfig {
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
            self.concurrent_requests > 0 && self.inbox.in_flight > 0,
            "concurrent_requests and inbox.in_flight",
            "must be at least 1",
        )?;
        require(
            self.request_memory_mib.min(self.inbox.memory_mib) >= LARGEST_MESSAGE_MIB,
            "request_memory_mib and inbox.memory_mib",
            "must be at least 9: one message of the largest size",
        )?;
        require(
            self.request_mib_per_second > 0,
            "request_mib_per_second",
            "must be at least 1",
        )?;
        require(
            (LINK_LASTS_AT_LEAST..=LINK_LASTS_AT_MOST).contains(&self.s3.link_lasts),
            "s3.link_lasts",
            "must be 1 second to 7 days, S3's limit",
        )?;
        self.commit.check()?;
        self.limits.check()?;
        self.api.check()?;
        Ok(())
    }
}

impl CommitConfig {
    fn check(&self) -> Result<(), ConfigError> {
        require(self.in_flight > 0, "commit.in_flight", "must be at least 1")?;
        require(
            (1..=MAX_BATCH).contains(&self.largest_batch),
            "commit.largest_batch",
            "must be 1 to 1,000, the server's limit",
        )
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        require(
            self.burst as usize >= MAX_TASKS_PER_CALL,
            "limits.burst",
            "must be at least 10,000: a full call could never pass below it",
        )?;
        require(
            self.tasks_per_second > 0,
            "limits.tasks_per_second",
            "must be at least 1",
        )?;
        require(
            self.max_queued_per_owner > 0,
            "limits.max_queued_per_owner",
            "must be at least 1",
        )?;
        for (key, percent) in [
            ("limits.log_room_percent", self.log_room_percent),
            ("limits.owner_log_percent", self.owner_log_percent),
        ] {
            require((1..=100).contains(&percent), key, "must be 1 to 100")?;
        }
        require(
            !self.poll.is_zero(),
            "limits.poll",
            "must be greater than zero",
        )
    }
}

impl ApiConfig {
    /// Of a bound, what one owner of keys may hold.
    pub fn share(&self, bound: usize) -> usize {
        (bound * self.owner_share_percent / 100).max(1)
    }

    /// The allowed origins as headers name them. None: one of them is no origin.
    pub fn origins(&self) -> Option<Vec<HeaderValue>> {
        let parse = |origin: &String| {
            let fits = origin.contains("://") && !origin.ends_with('/');
            HeaderValue::try_from(origin).ok().filter(|_| fits)
        };
        self.allow_origins.iter().map(parse).collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        require(
            self.origins().is_some(),
            "api.allow_origins",
            "must hold origins such as https://studio.example",
        )?;
        let bounds = [
            self.connections,
            self.concurrent_requests,
            self.uploads,
            self.followers,
        ];
        require(
            !bounds.contains(&0),
            "api.connections, concurrent_requests, uploads and followers",
            "must be at least 1",
        )?;
        require(
            self.body_memory_mib >= LARGEST_BODY.div_ceil(1 << 20),
            "api.body_memory_mib",
            "must be at least 28: one body of the largest size",
        )?;
        require(
            (1..=100).contains(&self.owner_share_percent),
            "api.owner_share_percent",
            "must be 1 to 100",
        )?;
        let times = [self.body_timeout, self.idle_timeout, self.keep_alive];
        require(
            !times.contains(&Duration::ZERO),
            "api.body_timeout, idle_timeout and keep_alive",
            "must be greater than zero",
        )
    }
}

impl S3Config {
    pub fn store(&self) -> StoreConfig {
        StoreConfig {
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            endpoint_url: self.endpoint_url.clone(),
            force_path_style: self.force_path_style,
            public_endpoint_url: self.public_endpoint_url.clone(),
        }
    }
}
