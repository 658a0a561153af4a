//! `spotreel-localcloud`: the local cloud as a program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use spotreel_localcloud::{
    ACCOUNT, Config, LocalCloud, MarketConfig, REGION, VCPU_QUOTA, zones_of,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A local cloud: S3 in a directory, EC2 instances as processes, and faults on request.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address of S3 and EC2
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_LISTEN",
        default_value = "127.0.0.1:9000"
    )]
    listen: SocketAddr,
    /// Address of health (/livez), faults (/faults) and the operator's view (/instances, /bill, /calls, /market)
    /// [default: none]
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ADMIN")]
    admin: Option<SocketAddr>,
    /// Directory for all data; created if it does not exist
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_DIR")]
    dir: PathBuf,
    /// Access key id that clients must use
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ACCESS_KEY", default_value = "local")]
    access_key: String,
    /// Secret of the access key; other users of this machine can see it on the command line
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_SECRET_KEY",
        default_value = "local-secret",
        hide_env_values = true
    )]
    secret_key: String,
    /// Region name that EC2 reports
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_REGION", default_value = REGION)]
    region: String,
    /// Availability zones, as letters after the region name or as whole names; each has one subnet
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_ZONES",
        value_delimiter = ',',
        default_value = "a,b,c"
    )]
    zones: Vec<String>,
    /// Id of the AWS account that owns all resources
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ACCOUNT_ID", default_value = ACCOUNT)]
    account_id: String,
    /// Speed of the cloud's clock relative to real time; affects prices, bill, interruption notices and launch times
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_SPEED", default_value_t = 1.0)]
    speed: f64,
    /// Time in milliseconds (real time) for which an instance stays pending
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_BOOT_MS", default_value_t = 0)]
    boot_ms: u64,
    /// Time in milliseconds (real time) from SIGTERM to SIGKILL when an instance ends
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_GRACE_MS", default_value_t = 10_000)]
    grace_ms: u64,
    /// vCPU quota of Spot instances; On-Demand has a quota of the same size
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_VCPU_QUOTA", default_value_t = VCPU_QUOTA)]
    vcpu_quota: u32,
    /// Seed of a random Spot market [default: constant prices and unlimited capacity]
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_MARKET_SEED")]
    market_seed: Option<u64>,
    /// File with the course of the Spot market
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_MARKET_TRACE")]
    market_trace: Option<PathBuf>,
    /// Probability, from 0 to 1, that a Spot instance is interrupted within one hour of the cloud's time
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_HAZARD")]
    hazard: Option<f64>,
    /// Environment variable of every instance (NAME=VALUE), in addition to this program's own; can be repeated
    #[arg(
        long = "instance-var",
        env = "SPOTREEL_LOCALCLOUD_INSTANCE_VAR",
        value_delimiter = '\n',
        value_parser = variable
    )]
    instance_variables: Vec<(String, String)>,
    /// File to which each request to EC2 and Service Quotas is written as a line of JSON
    #[arg(long)]
    record: Option<PathBuf>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must have the form NAME=VALUE".to_owned()),
    }
}

impl Args {
    fn config(self) -> anyhow::Result<Config> {
        ensure!(
            self.speed.is_finite() && self.speed > 0.0,
            "--speed must be greater than 0"
        );
        let mut market = match self.market_seed {
            Some(seed) => MarketConfig::drawn(seed),
            None => MarketConfig::calm(),
        };
        market.zones = zones_of(&self.region, &self.zones);
        market.trace = self.market_trace;
        if let Some(hazard) = self.hazard {
            ensure!(
                (0.0..=1.0).contains(&hazard),
                "--hazard must be from 0 to 1"
            );
            market.hazard_per_hour = hazard;
        }
        Ok(Config {
            listen: self.listen,
            admin: self.admin,
            dir: self.dir,
            access_key: self.access_key,
            secret_key: self.secret_key,
            region: self.region,
            account_id: self.account_id,
            speed: self.speed,
            clock_ahead: jiff::SignedDuration::ZERO,
            boot: Duration::from_millis(self.boot_ms),
            machine_grace: Duration::from_millis(self.grace_ms),
            vcpu_quota: self.vcpu_quota,
            instance_variables: self.instance_variables,
            market,
            record: self.record,
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = Args::parse().config()?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let cloud = LocalCloud::start(config).await?;
    let admin = cloud
        .admin_addr
        .map(|address| format!(" admin=http://{address}"));
    println!(
        "ready s3={}{}",
        cloud.endpoint_url(),
        admin.unwrap_or_default()
    );
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cloud.shutdown().await;
    Ok(())
}
