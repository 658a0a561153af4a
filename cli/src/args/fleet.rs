//! Batches, the fleet, and orders to both.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use spotreel_domain::Model;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel why
  spotreel why --json | jq '.pools[].decision.forecast'")]
pub struct WhyArgs {
    /// This pool only
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel batches
  spotreel batches default-17       its story, machine by machine, with the bill")]
pub struct BatchesArgs {
    /// One batch, such as default-17
    pub id: Option<String>,
    /// This pool only
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub pool: Option<String>,
    /// The most batches to print, the newest first
    #[arg(long, default_value_t = 20, conflicts_with = "id")]
    pub limit: u32,
    /// Print one JSON batch per line; with an ID its events before it
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  spotreel fleet
  spotreel fleet reap --dry-run     what has outlived its time, by its tags alone"
)]
pub struct FleetArgs {
    #[command(subcommand)]
    pub command: Option<FleetCommand>,
    /// This pool only
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// End machines whose time is over, by their tags alone: asks EC2 and nothing else
    Reap(ReapArgs),
    /// Make or update the launch template that the fleet launches from
    Template(Box<TemplateArgs>),
}

/// Where EC2 is: flags, then the local cloud of --dir, then the environment. Credentials are the usual ones of AWS.
#[derive(Clone, Debug, Args)]
pub struct Ec2Args {
    /// The region; us-east-2 where nobody says another [env: AWS_REGION]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Another EC2 than Amazon's [env: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel fleet reap --env prod --dry-run
  spotreel fleet reap --env prod --every 15m     beside the fleet, under a supervisor of its own
  spotreel fleet reap --env prod --all           everything of this environment, now

Ends what carries spotreel:managed-by=fleet and the environment's tag, and is past spotreel:expires-at
(or has none and is older than --life). With --all, whatever its time. Needs no NATS and no fleet.
Exit codes: 0 nothing of it is left, 1 EC2 failed or something could not be ended, 2 wrong usage.")]
pub struct ReapArgs {
    #[command(flatten)]
    pub ec2: Ec2Args,
    /// The environment: `env` of fleet's configuration; `default` where nobody says another [env: SPOTREEL_ENV]
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Also what is not over yet
    #[arg(long)]
    pub all: bool,
    /// Only say what would be ended
    #[arg(long)]
    pub dry_run: bool,
    /// The longest life of a machine that says nothing of its end; patience.life of the pools
    #[arg(long, default_value = "4h", value_parser = humantime::parse_duration)]
    pub life: Duration,
    /// Look once and end; the default
    #[arg(long, conflicts_with = "every")]
    pub once: bool,
    /// Look again and again, until a signal
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub every: Option<Duration>,
    /// Print one JSON line for each machine
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel fleet template --ami ami-0123456789abcdef0 --instance-profile spotreel-worker \\
      --security-group sg-0123456789abcdef0 --parameters /spotreel/prod/worker --bucket spotreel-prod \\
      --image registry.example/spotreel/worker@sha256:… --models t2v-A14B \\
      --models-bucket spotreel-models --models-image registry.example/spotreel@sha256:…
  spotreel fleet template --print --parameters … --image …     only the script

The same content is the same version; other content is a new one. Prints id and versions for [template] of
fleet's configuration: one for Spot, whose requests it tags, and one for machines on demand. The user data is readable by everything on the machine: no secrets in it.")]
pub struct TemplateArgs {
    #[command(flatten)]
    pub ec2: Ec2Args,
    /// The template's name
    #[arg(long, default_value = "spotreel-worker")]
    pub name: String,
    /// The machine image: Ubuntu with NVIDIA's driver, docker, and AWS's command line
    #[arg(long, required_unless_present = "print")]
    pub ami: Option<String>,
    /// The worker's container, by its digest
    #[arg(
        long,
        value_name = "NAME@sha256:…",
        requires = "parameters",
        required_unless_present = "user_data"
    )]
    pub image: Option<String>,
    /// Where nats.url, nats.password and the worker's other parameters lie in the parameter store, such as
    /// /spotreel/prod/worker
    #[arg(long, value_name = "PATH")]
    pub parameters: Option<String>,
    /// The bucket for videos and checkpoints, in the machines' region; the parameters s3.bucket and s3.region go before it
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// The models that the worker takes, the first one first; not more than the pool's
    #[arg(
        long,
        value_name = "MODEL,…",
        value_delimiter = ',',
        default_values_t = Model::ALL,
        value_parser = super::models::model
    )]
    pub models: Vec<Model>,
    /// The bucket that `spotreel models push` filled; the worker fetches from there
    #[arg(long, value_name = "NAME")]
    pub models_bucket: Option<String>,
    /// spotreel's own container, by its digest: fetches models while the worker's, which is much bigger, comes
    #[arg(long, value_name = "NAME@sha256:…", requires = "models_bucket")]
    pub models_image: Option<String>,
    /// A machine switches itself off after so long, whatever happens; not below patience.life of the pools
    #[arg(long, default_value = "4h", value_parser = humantime::parse_duration)]
    pub max_life: Duration,
    /// A worker without work ends after so long
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    pub idle: Duration,
    /// For machines without a GPU, such as for a rehearsal
    #[arg(long)]
    pub no_gpus: bool,
    /// A script of your own in place of all that; '-' is standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["image", "parameters", "bucket", "models", "models_bucket", "models_image", "max_life", "idle", "no_gpus"]
    )]
    pub user_data: Option<PathBuf>,
    /// Print the script, and make nothing
    #[arg(long)]
    pub print: bool,
    /// Name or ARN of the machines' instance profile
    #[arg(long, value_name = "NAME")]
    pub instance_profile: Option<String>,
    /// By id; may be given again. None: the default one of the subnet's network
    #[arg(long = "security-group", value_name = "SG")]
    pub security_groups: Vec<String>,
    /// The image's own name for its root disk
    #[arg(long, default_value = "/dev/sda1", value_name = "DEVICE")]
    pub root_device: String,
    /// Size of the root disk
    #[arg(long, default_value_t = 100, value_name = "GIB")]
    pub volume_gib: u32,
    /// The environment: `env` of fleet's configuration, a tag of the template and of requests for Spot instances; `default`
    /// where nobody says another [env: SPOTREEL_ENV]
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// For the template, requests for Spot instances and network interfaces; may be given again
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = super::pair)]
    pub tags: Vec<(String, String)>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The next batch that trigger asks for answers this order; it is forgotten after an hour.
It is refused while launches are held, unless --force is given. It never overrides a budget."
)]
pub struct RunArgs {
    /// May be left out where there is one
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Even though launches are held
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Why; everybody who asks is told
    #[arg(long)]
    pub reason: String,
    /// This pool only; all of them otherwise
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// This pool only; all of them otherwise
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel stop                     machines end what they have in hand, and go
  spotreel stop default-17 --now    they hand their tasks back with a checkpoint, and go

The tasks stay in the queue, and the next batch takes them: `spotreel hold` keeps it from coming.")]
pub struct StopArgs {
    /// The batch, such as default-17; otherwise the active one of the pool
    pub batch: Option<String>,
    /// May be left out where there is one
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Hand tasks back instead of ending them
    #[arg(long)]
    pub now: bool,
    /// Why, for the batch's record
    #[arg(long)]
    pub reason: Option<String>,
    #[command(flatten)]
    pub by: ByArgs,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// As `spotreel fleet` shows it, or the host's name of a machine of your own
    pub instance: String,
    /// Hand the task back instead of ending it
    #[arg(long)]
    pub now: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ByArgs {
    /// Who orders it, for the record
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
