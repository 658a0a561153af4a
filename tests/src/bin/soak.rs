//! `spotreel-soak`: a whole system under steady work, and whether anything grew that should not.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use spotreel_tests::soak::{self, Options};

/// Keeps a real system at work, then says whether memory, files, consumers or streams grew beyond what tasks explain
#[derive(Parser)]
#[command(name = "spotreel-soak", version)]
struct Args {
    /// Duration in minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Tasks per second, over all APIs together
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Number of workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = Options {
        lasts: Duration::from_secs(60 * args.minutes),
        rate: args.rate,
        workers: args.workers,
    };
    let report = Box::pin(soak::run(&options)).await;
    println!("{report}");
    ExitCode::from(u8::from(!report.passed()))
}
