//! The system on one machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel dev --dir .spotreel
  spotreel dev --dir .spotreel --trigger-at 10 --max-wait 1h --max-instances 5
  spotreel dev --dir .spotreel --workers 4 --step-ms 200
  spotreel dev --dir .spotreel --pools pools.toml

A batch starts when enough tasks are queued (--trigger-at), or when a task has waited long enough (--max-wait).
The fleet then launches instances of a local cloud, and terminates them when the queue is empty.
With --workers, dev starts that number of permanent workers and no fleet.
With --pools, dev uses the pools of FILE: models, instance types, price caps, rules and budgets, as in
deploy/pools.toml. Keys that FILE leaves out have dev's values: short times, and the thresholds of the three
flags. Subnets and launch templates are always those of the local cloud. dev does not change FILE.

dev needs nats-server 2.14 or later, in SPOTREEL_NATS_SERVER, PATH or .venv/bin (`make tools` installs it there).
All data is in the directory of --dir; a later start with the same directory continues with it.
Each program reads settings from SPOTREEL_<PROGRAM>_…, such as SPOTREEL_INTAKE_….
Logs: programs in DIR/logs; instances and their engines in DIR/s3/machines/<INSTANCE>/console.log.")]
pub struct DevArgs {
    /// Number of permanent workers; no fleet is started
    #[arg(long, value_name = "N", conflicts_with_all = ["trigger_at", "max_wait", "max_instances", "market_seed", "pools"])]
    pub workers: Option<u32>,
    /// File with your own pools, such as a copy of deploy/pools.toml or of DIR/pools.toml
    #[arg(long, value_name = "FILE")]
    pub pools: Option<PathBuf>,
    /// Queue length that starts a batch
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub trigger_at: u64,
    /// Longest time a task waits before a batch starts
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub max_wait: Duration,
    /// Maximum number of instances of a pool at one time
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_instances: u32,
    /// Seed of a random Spot market with changing prices and interruptions [default: constant prices, no interruptions]
    #[arg(long, value_name = "N")]
    pub market_seed: Option<u64>,
    /// Minimum time of each renderer step in milliseconds, to imitate a GPU
    #[arg(long, value_name = "N")]
    pub step_ms: Option<u64>,
    /// Argument that is passed to the renderer; can be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub engine_arg: Vec<String>,
    /// Time after which a silent worker loses its task; applies only when the directory is new
    #[arg(long, default_value = "20s", value_name = "DURATION", value_parser = duration)]
    pub lease: Duration,
    /// Port of the NATS server [default: any free port]
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct DevChildArgs {
    /// Process id of the `dev` that starts the program
    pub parent: i32,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}
