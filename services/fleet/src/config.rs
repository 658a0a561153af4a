//! The configuration, as `fleet.toml` and `deploy/pools.toml` explain it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use spotreel_bootstrap::config::{Sources, as_toml, load_from, require};
use spotreel_bootstrap::{Common, Config, HttpConfig, ShutdownConfig, TelemetryConfig};
use spotreel_bus::NatsConfig;
use spotreel_domain::fleet::tags;
use spotreel_domain::money::Usd;
use spotreel_domain::pool::{Cloud, Pools};
use spotreel_ec2::Ec2Config;

use crate::error::StartError;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetConfig {
    pub env: String,
    pub project: String,
    /// Path of the file; empty: the pools' defaults.
    pub pools: String,
    pub concurrent_requests: usize,
    pub template: TemplateConfig,
    /// A person's own, on everything that a launch makes.
    pub tags: BTreeMap<String, String>,
    pub rounds: RoundsConfig,
    pub sweep: SweepConfig,
    pub prices: PricesConfig,
    pub ec2: Ec2Config,
    pub nats: NatsConfig,
    pub http: HttpConfig,
    pub telemetry: TelemetryConfig,
    pub shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(
        default,
        deserialize_with = "fixed_version",
        skip_serializing_if = "Option::is_none"
    )]
    pub version: Option<u64>,
    /// For machines on demand; absent: `version`.
    #[serde(
        default,
        deserialize_with = "fixed_version",
        skip_serializing_if = "Option::is_none"
    )]
    pub on_demand_version: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundsConfig {
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    #[serde(with = "humantime_serde")]
    pub gap: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub orphan_grace: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    #[serde(with = "humantime_serde")]
    pub good_for: Duration,
    #[serde(with = "humantime_serde")]
    pub check_every: Duration,
    pub volume_gb_month: Usd,
    pub public_address: Usd,
    pub on_demand: BTreeMap<String, Usd>,
}

/// `$Latest` and `$Default` would make one frozen request mean two things.
fn fixed_version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Version {
        Number(u64),
        Text(String),
    }
    let wrong = |text: &str| {
        D::Error::custom(format!(
            "{text:?} is not a fixed version: write the number of one, such as 3"
        ))
    };
    match Version::deserialize(from)? {
        Version::Number(0) => Err(wrong("0")),
        Version::Number(number) => Ok(Some(number)),
        Version::Text(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(wrong(&text)),
        },
    }
}

impl Config for FleetConfig {
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
            !self.env.is_empty(),
            "env",
            "must not be empty: it tells our instances from others'",
        )?;
        for (key, span) in [
            ("rounds.idle", self.rounds.idle),
            ("sweep.every", self.sweep.every),
            ("prices.every", self.prices.every),
            ("prices.check_every", self.prices.check_every),
        ] {
            require(!span.is_zero(), key, "must be greater than zero")?;
        }
        require(
            self.prices.good_for >= self.prices.every,
            "prices.good_for",
            "must not be shorter than prices.every: prices would be unknown between two questions",
        )?;
        require(
            self.concurrent_requests > 0,
            "concurrent_requests",
            "must be at least 1",
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

impl FleetConfig {
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
        self.check_pools(&pools)?;
        Ok(pools)
    }

    fn check_pools(&self, pools: &Pools) -> Result<(), StartError> {
        let template = &self.template;
        let known =
            (template.id.is_some() || template.name.is_some()) && template.version.is_some();
        for (name, pool) in &pools.pool {
            let mut tags = self.tags.clone();
            tags.extend(pool.tags.clone());
            if let Some(problem) = tags::problems(&tags).into_iter().next() {
                return Err(StartError::Tags(problem));
            }
            if pool.cloud != Cloud::Aws {
                continue;
            }
            if pool.template.is_none() && !known {
                return Err(StartError::NoTemplate { pool: name.clone() });
            }
            for subnet in &pool.subnets {
                if !subnet.zone.starts_with(&self.ec2.region) {
                    return Err(StartError::Zone {
                        pool: name.clone(),
                        zone: subnet.zone.clone(),
                        region: self.ec2.region.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::pool::PoolConfig;

    use super::*;

    fn config(pools: &str) -> FleetConfig {
        let pools = ("pools".to_owned(), pools.to_owned());
        let sources = Sources {
            name: "fleet",
            defaults: crate::DEFAULTS,
            overrides: vec![pools],
            ..Sources::default()
        };
        load_from(&sources).expect("the defaults are right")
    }

    /// An instance type stands in four places: the presets of a pool, the sample of pools, the prices of fleet.toml and
    /// the local cloud's table.
    #[test]
    fn every_preset_type_has_its_price_its_place_in_the_sample_and_in_the_local_cloud() {
        let table = include_str!("../../../crates/localcloud/data/instance_types.json");
        let table: Vec<serde_json::Value> = serde_json::from_str(table).unwrap();
        let price = |kind: &serde_json::Value| {
            let name = kind["name"].as_str().unwrap().to_owned();
            (
                name,
                Usd::from_micros(kind["on_demand_micros"].as_i64().unwrap()),
            )
        };
        let local: BTreeMap<_, _> = table.iter().map(price).collect();
        assert_eq!(config("").prices.on_demand, local);
        let sample = include_str!("../../../deploy/pools.toml");
        for kind in PoolConfig::default().kinds {
            assert!(local.contains_key(&kind.name), "{}", kind.name);
            assert!(
                sample.contains(&format!("name = \"{}\"", kind.name)),
                "{}",
                kind.name
            );
        }
    }

    #[test]
    fn the_check_shows_the_pools_and_names_the_file_that_is_missing() {
        let shown = config("").named_files().expect("the defaults are right");
        for words in ["[pool.default.rules.budgets]", "per_day = \"off\""] {
            assert!(shown.contains(words), "{shown}");
        }
        let missing = config("/nowhere/pools.toml").validate();
        let missing = format!("{:#}", missing.expect_err("there is none"));
        assert!(
            missing.contains("/nowhere/pools.toml: check the key `pools`"),
            "{missing}"
        );
        assert!(!missing.contains("--config"), "{missing}");
    }
}
