//! `spotreel-chaos`: a whole system under faults that a seed decides, and what it proves.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use spotreel_chaos::ChaosOptions;

/// Hurts a real system while tasks go through, then checks that none was lost, doubled or spoilt
#[derive(Parser)]
#[command(name = "spotreel-chaos", version)]
struct Args {
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of tasks
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// Maximum number of instances at one time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// Directory for logs, streams and objects [default: a temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the directory even if all checks pass
    #[arg(long)]
    keep: bool,
    /// Time limit in minutes
    #[arg(long, default_value_t = 20)]
    minutes_max: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = ChaosOptions {
        seed: args.seed,
        tasks: args.tasks,
        instances: args.instances,
        dir: args.dir,
        keep: args.keep,
        most: Duration::from_secs(60 * args.minutes_max),
    };
    match Box::pin(spotreel_chaos::run(&options)).await {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.passed()))
        }
        Err(error) => {
            eprintln!("spotreel-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
