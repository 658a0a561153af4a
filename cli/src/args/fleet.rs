//! Batches, the fleet, and orders to both.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use spotreel_domain::Model;

use super::values::{Since, since, subject};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel why
  spotreel why --json | jq '.pools[].decision.forecast'")]
pub struct WhyArgs {
    /// Only this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel batches
  spotreel batches --since 7d       the last week's, with their sum
  spotreel batches default-17       history and bill of one batch, instance by instance")]
pub struct BatchesArgs {
    /// Id of one batch, such as default-17
    pub id: Option<String>,
    /// Only this pool
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub pool: Option<String>,
    /// Maximum number of batches to print, the newest first
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "id")]
    pub limit: u32,
    /// Only batches requested after this time: a duration before now, such as 2h or 7d, or a date or time, in UTC if it
    /// has no zone
    #[arg(long, value_name = "DURATION|DATE", value_parser = since, conflicts_with_all = ["id", "limit"])]
    pub since: Option<Since>,
    /// Print one JSON batch per line; with an ID, first its events and then the batch
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  spotreel fleet
  spotreel fleet reap --dry-run     list expired instances, by their tags"
)]
pub struct FleetArgs {
    #[command(subcommand)]
    pub command: Option<FleetCommand>,
    /// Only this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Terminate expired instances; uses only EC2 and its tags
    Reap(ReapArgs),
    /// Create or update the launch template of the fleet
    Template(Box<TemplateArgs>),
}

/// How to reach EC2: flags, then the local cloud of --dir, then the environment. Credentials come from the usual AWS places.
#[derive(Clone, Debug, Args)]
pub struct Ec2Args {
    /// AWS region [env: AWS_REGION] [default: us-east-2]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Address of an EC2 service other than Amazon's [env: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel fleet reap --env prod --dry-run
  spotreel fleet reap --env prod --every 15m     beside the fleet, under a supervisor of its own
  spotreel fleet reap --env prod --all           all instances of this environment, now

Terminates each instance that has the tag spotreel:managed-by=fleet and the tag of the environment, and that is
past its spotreel:expires-at, or has no such tag and is older than --life. --all ignores the age. The command
needs neither NATS nor the fleet.
Exit codes: 0 success, 1 EC2 failed or an instance could not be terminated, 2 wrong usage.")]
pub struct ReapArgs {
    #[command(flatten)]
    pub ec2: Ec2Args,
    /// Environment: the value of `env` in fleet's configuration [env: SPOTREEL_ENV] [default: default]
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Terminate instances that have not expired, too
    #[arg(long)]
    pub all: bool,
    /// Print what would be terminated, and terminate nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Age at which an instance without the tag spotreel:expires-at expires; use patience.life of the pools
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = humantime::parse_duration)]
    pub life: Duration,
    /// Make one pass and exit (the default)
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
    /// Interval between passes; runs until a signal
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub every: Option<Duration>,
    /// Print one JSON line per instance
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel fleet template --ami ami-0123456789abcdef0 --instance-profile spotreel-worker \\
      --security-group sg-0123456789abcdef0 --parameters /spotreel/prod/worker --bucket spotreel-prod \\
      --image registry.example/spotreel/worker@sha256:… --models t2v-A14B \\
      --models-bucket spotreel-models --models-image registry.example/spotreel@sha256:…
  spotreel fleet template --print --parameters … --image …     print the script only

New content creates a new version; unchanged content keeps the existing one. Prints the id and two versions for
[template] in fleet's configuration: one for Spot, which also tags Spot requests, and one for On-Demand.
Every process on the instance can read the user data, so it must not contain secrets.")]
pub struct TemplateArgs {
    #[command(flatten)]
    pub ec2: Ec2Args,
    /// Name of the launch template
    #[arg(long, value_name = "NAME", default_value = "spotreel-worker")]
    pub name: String,
    /// AMI: Ubuntu with NVIDIA's driver, docker, and the AWS command line
    #[arg(long, value_name = "AMI", required_unless_present = "print")]
    pub ami: Option<String>,
    /// Container image of the worker, by digest
    #[arg(
        long,
        value_name = "NAME@sha256:…",
        requires = "parameters",
        required_unless_present = "user_data"
    )]
    pub image: Option<String>,
    /// Path in the SSM parameter store with nats.url, nats.password and the worker's other parameters, such as
    /// /spotreel/prod/worker
    #[arg(long, value_name = "PATH")]
    pub parameters: Option<String>,
    /// Bucket for videos and checkpoints, in the region of the instances; the parameters s3.bucket and s3.region
    /// override it
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Models that the worker renders, in order of preference; must be models of the pool
    #[arg(
        long,
        value_name = "MODEL,…",
        value_delimiter = ',',
        default_values_t = Model::ALL,
        value_parser = super::models::model
    )]
    pub models: Vec<Model>,
    /// Bucket with the model packs (see `spotreel models push`)
    #[arg(long, value_name = "NAME")]
    pub models_bucket: Option<String>,
    /// Container image of spotreel, by digest; it pulls the packs while the larger image of the worker downloads
    #[arg(long, value_name = "NAME@sha256:…", requires = "models_bucket")]
    pub models_image: Option<String>,
    /// Maximum life of an instance: it shuts itself down after this time; at least patience.life of the pools
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = humantime::parse_duration)]
    pub max_life: Duration,
    /// Time without work after which a worker exits
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub idle: Duration,
    /// Start the worker without GPUs, such as for a trial on cheap instances
    #[arg(long)]
    pub no_gpus: bool,
    /// Your own script as user data, in place of the generated one; '-' reads standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["image", "parameters", "bucket", "models", "models_bucket", "models_image", "max_life", "idle", "no_gpus"]
    )]
    pub user_data: Option<PathBuf>,
    /// Print the script, and create nothing
    #[arg(long)]
    pub print: bool,
    /// Name or ARN of the instance profile
    #[arg(long, value_name = "NAME")]
    pub instance_profile: Option<String>,
    /// Security group id; can be repeated [default: the default group of the subnet's VPC]
    #[arg(long = "security-group", value_name = "SG")]
    pub security_groups: Vec<String>,
    /// Device name of the AMI's root disk
    #[arg(long, default_value = "/dev/sda1", value_name = "DEVICE")]
    pub root_device: String,
    /// Size of the root disk in GiB
    #[arg(long, default_value_t = 100, value_name = "GIB")]
    pub volume_gib: u32,
    /// Environment: the value of `env` in fleet's configuration; it becomes a tag of the template and of Spot requests
    /// [env: SPOTREEL_ENV] [default: default]
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Tag for the template, Spot requests and network interfaces; can be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = super::pair)]
    pub tags: Vec<(String, String)>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Ctrl-C ends it. Where the output is no terminal, it is printed once.")]
pub struct TopArgs {
    /// Only this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print it once and exit
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel events                              those of the last hour
  spotreel events --follow                     from now on, until Ctrl-C
  spotreel events --since 1d --subject 'spotreel.task.*.failed' --json | jq -r .subject
  spotreel events --follow --subject 'spotreel.alarm.>'")]
pub struct EventsArgs {
    /// Wait for further events
    #[arg(long, short)]
    pub follow: bool,
    /// Only events stored after this time: a duration before now, such as 2h or 1d, or a date or time, in UTC if it has no
    /// zone [default: 1h; with --follow, now]
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub since: Option<Since>,
    /// Only events on these NATS subjects
    #[arg(long, value_name = "PATTERN", default_value = "spotreel.>", value_parser = subject)]
    pub subject: String,
    /// Print one JSON event per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel alarms
  spotreel alarms --firing --check || echo 'look at spotreel'")]
pub struct AlarmsArgs {
    /// Only alarms that fire now
    #[arg(long)]
    pub firing: bool,
    /// Exit with 1 if an alarm fires, or if monitor has not looked for a minute
    #[arg(long)]
    pub check: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The order applies to the next batch of the pool, and expires after an hour if no batch starts.
It is refused while a hold is active, unless --force is given. It never overrides a budget."
)]
pub struct RunArgs {
    /// The pool; required only if there are several
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Start the batch in spite of a hold
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Reason for the hold; `spotreel why` shows it
    #[arg(long)]
    pub reason: String,
    /// Only this pool [default: all pools]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Only this pool [default: all pools]
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel stop                     workers finish their task in hand; then the instances are terminated
  spotreel stop default-17 --now    workers hand their task back with a checkpoint

Unfinished tasks stay in the queue, and a rule may start another batch for them. `spotreel hold` prevents that.")]
pub struct StopArgs {
    /// Id of the batch, such as default-17 [default: the active batch of the pool]
    pub batch: Option<String>,
    /// The pool; required only if there are several
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Hand tasks back with a checkpoint instead of finishing them
    #[arg(long)]
    pub now: bool,
    /// Reason for the stop; the batch's record keeps it
    #[arg(long)]
    pub reason: Option<String>,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Instance id as `spotreel fleet` shows it, or the host name of a machine of your own
    pub instance: String,
    /// Hand the task back with a checkpoint instead of finishing it
    #[arg(long)]
    pub now: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ByArgs {
    /// Name of the person who gives the order; the record keeps it
    #[arg(long, env = "USER", default_value_t = user(), value_name = "NAME")]
    pub by: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// The user of this process, where the environment names none, as in a container.
fn user() -> String {
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Ok(own) = std::fs::metadata("/proc/self") else {
        return "somebody".to_owned();
    };
    let id = own.uid().to_string();
    let is_own = |line: &&str| line.split(':').nth(2) == Some(&id);
    let name = known
        .lines()
        .find(is_own)
        .and_then(|line| line.split(':').next());
    name.map_or_else(|| format!("user {id}"), str::to_owned)
}
