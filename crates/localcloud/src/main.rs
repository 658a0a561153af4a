//! `spotreel-localcloud`: the local cloud as a program.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use spotreel_localcloud::{Config, LocalCloud};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A small cloud on one machine: S3 over a directory, with faults on order.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where S3 listens
    #[arg(
        long,
        env = "SPOTREEL_LOCALCLOUD_LISTEN",
        default_value = "127.0.0.1:9000"
    )]
    listen: SocketAddr,
    /// Where health (/livez) and faults (/faults) listen; without it neither exists
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
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let cloud = LocalCloud::start(Config {
        listen: args.listen,
        admin: args.admin,
        dir: args.dir,
        access_key: args.access_key,
        secret_key: args.secret_key,
    })
    .await?;
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
