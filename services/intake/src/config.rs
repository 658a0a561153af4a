//! The configuration, as `intake.toml` explains it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_bus::log::MAX_BATCH;
use spotreel_domain::Model;
use spotreel_domain::api::MAX_TASKS_PER_CALL;
use spotreel_s3::StoreConfig;

use crate::error::StartError;

/// The largest body over HTTP: a picture of 20 MB in base64, and what stands around it.
pub const LARGEST_BODY: usize = 28 << 20;

/// `max_payload` of deploy/nats/nats-server.conf, and what a delivery has besides: its subjects.
pub const LARGEST_MESSAGE_MIB: usize = 9;

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

/// What the workers behind this door can render.
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
}

impl IntakeConfig {
    /// What serde cannot say about the values.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |key, rule| Err(StartError::Config { key, rule });
        if (self.limits.burst as usize) < MAX_TASKS_PER_CALL {
            return refuse(
                "limits.burst",
                "is at least 10,000: a full call could never pass below it",
            );
        }
        if self.limits.tasks_per_second == 0 {
            return refuse("limits.tasks_per_second", "is at least 1");
        }
        if !(1..=100).contains(&self.limits.log_room_percent) {
            return refuse("limits.log_room_percent", "is 1 to 100");
        }
        if self.limits.max_queued_per_owner == 0 {
            return refuse("limits.max_queued_per_owner", "is at least 1");
        }
        if !(1..=100).contains(&self.limits.owner_log_percent) {
            return refuse("limits.owner_log_percent", "is 1 to 100");
        }
        if self.limits.poll.is_zero() {
            return refuse("limits.poll", "is more than nothing");
        }
        if self.commit.in_flight == 0 {
            return refuse("commit.in_flight", "is at least 1");
        }
        if !(1..=MAX_BATCH).contains(&self.commit.largest_batch) {
            return refuse("commit.largest_batch", "is 1 to 1,000, the server's limit");
        }
        if self.concurrent_requests == 0 || self.inbox.in_flight == 0 {
            return refuse("concurrent_requests and inbox.in_flight", "are at least 1");
        }
        if self.request_memory_mib.min(self.inbox.memory_mib) < LARGEST_MESSAGE_MIB {
            return refuse(
                "request_memory_mib and inbox.memory_mib",
                "are at least 9: one message of the largest size",
            );
        }
        if self.request_mib_per_second == 0 {
            return refuse("request_mib_per_second", "is at least 1");
        }
        self.api.check()
    }
}

impl ApiConfig {
    /// Of a bound, what one owner of keys may hold.
    pub fn share(&self, bound: usize) -> usize {
        (bound * self.owner_share_percent / 100).max(1)
    }

    fn check(&self) -> Result<(), StartError> {
        let refuse = |key, rule| Err(StartError::Config { key, rule });
        let bounds = [
            self.connections,
            self.concurrent_requests,
            self.uploads,
            self.followers,
        ];
        if bounds.contains(&0) {
            return refuse(
                "api.connections, concurrent_requests, uploads and followers",
                "are at least 1",
            );
        }
        if self.body_memory_mib < LARGEST_BODY.div_ceil(1 << 20) {
            return refuse(
                "api.body_memory_mib",
                "is at least 28: one body of the largest size",
            );
        }
        if !(1..=100).contains(&self.owner_share_percent) {
            return refuse("api.owner_share_percent", "is 1 to 100");
        }
        let times = [self.body_timeout, self.idle_timeout, self.keep_alive];
        if times.iter().any(Duration::is_zero) {
            return refuse(
                "api.body_timeout, idle_timeout and keep_alive",
                "must be greater than zero",
            );
        }
        Ok(())
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
