//! The configuration, as `trigger.toml` and `deploy/pools.toml` explain it.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::{Sources, as_toml, load_from, require};
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_domain::pool::{Cloud, Pools};
use spotreel_ec2::Ec2Config;

use crate::error::StartError;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerConfig {
    /// Path of the file; empty: the pools' defaults.
    pub pools: String,
    pub reconcile: ReconcileConfig,
    pub prices: PricesConfig,
    pub ec2: Ec2Config,
    pub nats: NatsConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub gap: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub good_for: Duration,
}

impl Config for TriggerConfig {
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
            !self.reconcile.every.is_zero() && !self.prices.every.is_zero(),
            "reconcile.every and prices.every",
            "must be greater than zero",
        )?;
        require(
            self.reconcile.gap <= self.reconcile.every,
            "reconcile.gap",
            "must not be longer than reconcile.every",
        )?;
        require(
            self.prices.good_for >= self.prices.every,
            "prices.good_for",
            "must not be shorter than prices.every: prices would be unknown between two questions",
        )?;
        self.load_pools()?;
        Ok(())
    }

    fn named_files(&self) -> anyhow::Result<String> {
        let from = match self.pools.as_str() {
            "" => "the defaults: `pools` names no file",
            path => path,
        };
        let pools = as_toml(&self.load_pools()?)?;
        Ok(format!("\n# The pools, from {from}.\n{pools}"))
    }
}

impl TriggerConfig {
    /// The pools, with all that serde cannot say about them.
    pub fn load_pools(&self) -> Result<Pools, StartError> {
        let pools = match self.pools.as_str() {
            "" => Pools::default(),
            path => load_from(&Sources {
                name: "pools",
                file: Some(Path::new(path)),
                named_by: "the key `pools`",
                ..Sources::default()
            })?,
        };
        pools.validate()?;
        self.check_zones(&pools)?;
        Ok(pools)
    }

    fn check_zones(&self, pools: &Pools) -> Result<(), StartError> {
        let region = &self.ec2.region;
        for (name, pool) in &pools.pool {
            let bought = pool.cloud == Cloud::Aws;
            for subnet in pool.subnets.iter().filter(|_| bought) {
                if !subnet.zone.starts_with(region.as_str()) {
                    return Err(StartError::Zone {
                        pool: name.clone(),
                        zone: subnet.zone.clone(),
                        region: region.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}
