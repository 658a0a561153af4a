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

/// A small cloud on one machine: S3 over a directory, EC2 over processes, with faults on order.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where S3 and EC2 listen
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_LISTEN",
        default_value = "127.0.0.1:9000"
    )]
    listen: SocketAddr,
    /// Where health (/livez), faults (/faults) and the operator's view (/instances, /bill, /calls, /market) listen
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ADMIN")]
    admin: Option<SocketAddr>,
    /// Directory that keeps everything; made if it is missing
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_DIR")]
    dir: PathBuf,
    /// The one access key
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ACCESS_KEY", default_value = "local")]
    access_key: String,
    /// Its secret; on the command line others on this machine can see it
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_SECRET_KEY",
        default_value = "local-secret",
        hide_env_values = true
    )]
    secret_key: String,
    /// The region that EC2 says it is
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_REGION", default_value = REGION)]
    region: String,
    /// Its zones: letters after the region's name, or whole names; one subnet in each
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_ZONES",
        value_delimiter = ',',
        default_value = "a,b,c"
    )]
    zones: Vec<String>,
    /// The account that owns everything
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_ACCOUNT_ID", default_value = ACCOUNT)]
    account_id: String,
    /// How much faster than the real one the cloud's time runs: prices, bill, notices, launch times
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_SPEED", default_value_t = 1.0)]
    speed: f64,
    /// Milliseconds (real) that an instance is pending
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_BOOT_MS", default_value_t = 0)]
    boot_ms: u64,
    /// Milliseconds (real) from SIGTERM to SIGKILL for a machine
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_GRACE_MS", default_value_t = 10_000)]
    grace_ms: u64,
    /// vCPUs that Spot may hold, and on-demand as many
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_VCPU_QUOTA", default_value_t = VCPU_QUOTA)]
    vcpu_quota: u32,
    /// A market that lives, drawn from this seed; without it prices stand still and there is room for all
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_MARKET_SEED")]
    market_seed: Option<u64>,
    /// A market that follows this file
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_MARKET_TRACE")]
    market_trace: Option<PathBuf>,
    /// Chance of a Spot instance to be interrupted within an hour of the cloud's time
    #[arg(long, env = "SPOTREEL_LOCALCLOUD_HAZARD")]
    hazard: Option<f64>,
    /// Environment of every machine (NAME=VALUE), beside the program's own; may be given again
    #[arg(
        long = "instance-var",
        env = "SPOTREEL_LOCALCLOUD_INSTANCE_VAR",
        value_delimiter = '\n',
        value_parser = variable
    )]
    instance_variables: Vec<(String, String)>,
    /// A file to which the requests of EC2 and Service Quotas are written, a line of JSON each
    #[arg(long)]
    record: Option<PathBuf>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not of the form NAME=VALUE".to_owned()),
    }
}

impl Args {
    fn config(self) -> anyhow::Result<Config> {
        ensure!(
            self.speed.is_finite() && self.speed > 0.0,
            "--speed must be more than 0"
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
                "--hazard must be within 0..1"
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
