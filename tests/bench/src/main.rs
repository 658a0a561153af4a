//! `spotreel-bench`: the product's figures, each beside its bound, as a table and as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use spotreel_bench::{BenchOptions, MANY, PARTS, engine_tap};

/// Measures real programs against what bounds them in the same run
#[derive(Parser)]
#[command(name = "spotreel-bench", version)]
struct Args {
    /// Number of batches, and of interruption notices, that are measured
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Number of tasks in the long queue
    #[arg(long, default_value_t = MANY)]
    queued: u64,
    /// Run only this part; can be repeated
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(PARTS))]
    only: Vec<String>,
    /// File for the figures
    #[arg(long, default_value = "bench-results.json")]
    out: PathBuf,
    /// Relay between worker and engine, and write the engine's messages to this file
    #[arg(long, hide = true, requires = "engine")]
    engine_tap: Option<PathBuf>,
    /// Command of the engine behind --engine-tap
    #[arg(last = true, hide = true)]
    engine: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(log) = &args.engine_tap {
        return engine_tap::run(log, &args.engine).unwrap_or_else(|error| {
            eprintln!("spotreel-bench: the engine's tap: {error}");
            ExitCode::FAILURE
        });
    }
    measure(args)
}

#[tokio::main]
async fn measure(args: Args) -> ExitCode {
    let began = Instant::now();
    let options = BenchOptions {
        rounds: args.rounds,
        queued: args.queued,
        only: args.only,
    };
    let figures = Box::pin(spotreel_bench::run(&options)).await;
    println!("{}", spotreel_bench::table(&figures));
    for figure in figures.iter().filter(|figure| figure.goal.is_some()) {
        println!("{}: {}", figure.name, figure.setting);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{:.0} s in all; load average {}",
        began.elapsed().as_secs_f64(),
        load.trim()
    );
    match spotreel_bench::write(&figures, &args.out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "spotreel-bench: {} cannot be written: {error}",
                args.out.display()
            );
            ExitCode::FAILURE
        }
    }
}
