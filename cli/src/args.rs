//! What a person can type, and what `--help` says about it.

mod fleet;
mod keys;
mod models;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use spotreel_domain::model::Expert;
use spotreel_domain::request::LoraRequest;

pub use fleet::{
    BatchesArgs, DrainArgs, Ec2Args, FleetArgs, FleetCommand, HoldArgs, ReapArgs, ResumeArgs,
    RunArgs, StopArgs, TemplateArgs, WhyArgs,
};
pub use keys::{CreateKeyArgs, KeysArgs, KeysCommand, ListKeysArgs, RevokeKeyArgs};
pub use models::{
    AddLoraArgs, BucketArgs, ListLorasArgs, ListModelsArgs, LoraArgs, LoraCommand, ModelsArgs,
    ModelsCommand, PackModelArgs, PruneModelsArgs, PullModelsArgs, PushModelArgs, RemoveLoraArgs,
    VerifyModelArgs,
};

/// Renders videos from prompts: submit tasks, watch them, fetch the results.
#[derive(Debug, Parser)]
#[command(
    name = "spotreel",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  spotreel dev --dir .spotreel                  everything on this machine, in one terminal
  export SPOTREEL_DIR=.spotreel                 then, in another
  spotreel submit --prompt 'a red fox in the snow' --wait
  spotreel get <ID> -o fox.mp4

Connection, of every command; the first place that is given is used alone:
  --dir DIR, SPOTREEL_DIR       the directory of a running `spotreel dev`
  --context NAME                a context of the nats command
  NATS_URL, NATS_USER, NATS_PASSWORD, NATS_CREDS
  NATS_CONTEXT                  a context of the nats command
  none of them                  the context that the nats command has selected, or nats://127.0.0.1:4222
These flags then replace single values of it:
  --nats-url URL, --nats-user NAME, --nats-password PASSWORD, --nats-creds FILE
  --operator                    connect as SPOTREEL_OPERATOR_USER with SPOTREEL_OPERATOR_PASSWORD; orders always do

Exit codes: 0 done, 1 failed or refused, 2 wrong usage."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine, with a renderer that needs no GPU
    Dev(DevArgs),
    /// Make the streams, consumers and the bucket that are missing
    Provision(ProvisionArgs),
    /// What tasks would take and cost, before any is submitted
    Quote(QuoteArgs),
    /// Submit one task, or a file of them
    Submit(Box<SubmitArgs>),
    /// Follow tasks as they are rendered
    Watch(WatchArgs),
    /// List tasks, the newest change first
    List(ListArgs),
    /// Show one task, how far it is, and what became of each try at it
    Status(StatusArgs),
    /// Download a finished video and check it
    Get(GetArgs),
    /// Cancel tasks that have not ended: by id, or by label, state, model or owner
    Cancel(CancelArgs),
    /// Queue failed, cancelled or expired tasks again
    Retry(IdsArgs),
    /// Which rule will run the queue and when, and what each one still lacks
    Why(WhyArgs),
    /// The batches: why they came, what they did, what they cost
    Batches(BatchesArgs),
    /// The machines now: what each does and costs
    Fleet(FleetArgs),
    /// Order a batch now, whatever the rules say
    Run(RunArgs),
    /// Launch nothing until `resume`
    Hold(HoldArgs),
    /// Take a hold back
    Resume(ResumeArgs),
    /// End a batch: its machines go, its tasks stay
    Stop(StopArgs),
    /// Let one machine take nothing more, and go
    Drain(DrainArgs),
    /// Keys of the HTTP API: make, list, revoke
    Keys(KeysArgs),
    /// Model packs: make, send, fetch, check, clear away
    Models(ModelsArgs),
    /// What `dev` starts its programs through: they die with it
    #[command(hide = true)]
    DevChild(DevChildArgs),
}

/// The help of `spotreel` itself explains those that are hidden: in the help of every command they would be most of it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection (more flags in `spotreel --help`)")]
pub struct ConnectionArgs {
    /// The directory of a running `spotreel dev`
    #[arg(long, global = true, env = "SPOTREEL_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Connect as the operator that SPOTREEL_OPERATOR_USER and _PASSWORD name; orders always do
    #[arg(long, global = true, hide = true)]
    pub operator: bool,
    /// Address of the NATS server [env: NATS_URL]
    #[arg(long, global = true, hide = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// User name [env: NATS_USER]
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Password; better given as NATS_PASSWORD, where other users of this machine can't see it
    #[arg(long, global = true, hide = true, value_name = "PASSWORD")]
    pub nats_password: Option<String>,
    /// A credentials file, instead of user and password [env: NATS_CREDS]
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub nats_creds: Option<String>,
    /// A context of the nats command; without one, the context selected there [env: NATS_CONTEXT]
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel dev --dir .spotreel
  spotreel dev --dir .spotreel --trigger-at 10 --max-wait 1h --max-instances 5
  spotreel dev --dir .spotreel --workers 4 --step-ms 200
  spotreel dev --dir .spotreel --pools pools.toml

A fleet buys machines of a small cloud on this machine when enough tasks are queued or one has waited long
enough, and gives them back. With --workers, that number of workers stays, and no fleet comes.
With --pools, the pools are those of FILE, as deploy/pools.toml explains it: its models, instance types, caps,
rules and budgets. What FILE leaves out has dev's values: short times, and the three flags for thresholds.
Subnets and launch templates are those of the small cloud. FILE itself is only read.
Needs nats-server 2.14 or later: SPOTREEL_NATS_SERVER, PATH or .venv/bin, where `make tools` puts it.
All is kept in the directory given with --dir; the same directory goes on where it stopped. A program
takes settings from SPOTREEL_<PROGRAM>_…, such as SPOTREEL_INTAKE_…. Logs of programs are in DIR/logs, those of
machines, with their engines' stderr, in DIR/s3/machines/<INSTANCE>/console.log.")]
pub struct DevArgs {
    /// Number of permanent workers; no fleet is started
    #[arg(long, value_name = "N", conflicts_with_all = ["trigger_at", "max_wait", "max_instances", "market_seed", "pools"])]
    pub workers: Option<u32>,
    /// Pools of your own, such as a copy of deploy/pools.toml or of DIR/pools.toml
    #[arg(long, value_name = "FILE")]
    pub pools: Option<PathBuf>,
    /// Queue length that starts a batch
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub trigger_at: u64,
    /// Longest time a task waits before a batch starts
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub max_wait: Duration,
    /// The most machines of a pool at a time
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_instances: u32,
    /// A market that moves and takes machines away, drawn from this seed; prices stand still otherwise
    #[arg(long, value_name = "N")]
    pub market_seed: Option<u64>,
    /// Milliseconds that each step of the renderer lasts, to mimic a GPU
    #[arg(long, value_name = "N")]
    pub step_ms: Option<u64>,
    /// An argument for the renderer; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub engine_arg: Vec<String>,
    /// A worker that falls silent has lost its task after so long; fixed when the directory is new
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub lease: Duration,
    /// Port of the NATS server; any free one otherwise
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct DevChildArgs {
    /// Process id of the `dev` that asked
    pub parent: i32,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  SPOTREEL_PROVISION_PASSWORD=… spotreel provision --nats-url nats://nats:4222 --replicas 3
  spotreel provision --json

Safe to run again: what exists is left as it is. Exits with 1 when something differs from what is wanted.
The bucket is made only when it is named; AWS_REGION and the AWS credentials are the usual ones.")]
pub struct ProvisionArgs {
    /// The user that may make streams
    #[arg(long, default_value = "provision", value_name = "NAME")]
    pub admin_user: String,
    /// Its password
    #[arg(
        long,
        env = "SPOTREEL_PROVISION_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub admin_password: Option<String>,
    /// The user that may make streams in the clients' account
    #[arg(long, default_value = "clients-provision", value_name = "NAME")]
    pub clients_user: String,
    /// Its password; without it the clients' copy of the events is not made
    #[arg(
        long,
        env = "SPOTREEL_CLIENTS_PROVISION_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub clients_password: Option<String>,
    /// Copies of each stream: 3 on a cluster
    #[arg(long, default_value_t = 1, value_parser = replicas)]
    pub replicas: usize,
    /// A worker that falls silent has lost its task after so long
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub lease: Duration,
    /// The bucket for videos, images and checkpoints
    #[arg(long, env = "SPOTREEL_BUCKET", value_name = "NAME")]
    pub bucket: Option<String>,
    /// Another S3 than Amazon's
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The bucket's region
    #[arg(
        long,
        env = "AWS_REGION",
        default_value = "us-east-1",
        value_name = "NAME"
    )]
    pub region: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

fn replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("1, 3 or 5: an even number of copies survives no more than one less".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel quote --tasks 100
  spotreel quote --model t2v-A14B --size 1280x720 --quality fast --json")]
pub struct QuoteArgs {
    /// ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long, default_value = "ti2v-5B")]
    pub model: String,
    /// WIDTHxHEIGHT, such as 1280x704
    #[arg(long)]
    pub size: Option<String>,
    /// 4n+1 frames, such as 121
    #[arg(long)]
    pub frames: Option<u32>,
    /// 4 steps of a distilled model, Wan2.2's own, or the most steps
    #[arg(long, value_enum, conflicts_with = "steps")]
    pub quality: Option<QualityArg>,
    /// Denoising steps
    #[arg(long)]
    pub steps: Option<u32>,
    /// So many videos
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tasks: u64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel submit --prompt 'a red fox in the snow'
  spotreel submit --model i2v-A14B --image fox.png --prompt 'the fox runs' --seed 7 --wait
  spotreel submit -f tasks.jsonl --json
  echo '{\"model\":\"ti2v-5B\",\"prompt\":\"a lighthouse\"}' | spotreel submit -f -

Everything but the prompt has a default. The same --id or --idempotency-key again is the same task.

A file holds one JSON object per line, or one JSON list. Its fields are those of the HTTP API; \"image\" may be
the path of a picture, and \"expires_in\" a duration such as \"2h\". The whole file is checked before anything is
submitted. A line without id and idempotency_key gets a key made of its own text: the same line again is the
same task. Another --idempotency-key renders the file anew; it, --label and --priority hold where a line
doesn't say otherwise. A picture that is too large for a message goes over HTTP: SPOTREEL_API and, where keys
are asked for, SPOTREEL_API_KEY.")]
pub struct SubmitArgs {
    /// Catches a prompt without its flag
    #[arg(hide = true, value_parser = stray)]
    pub stray: Vec<String>,
    /// ti2v-5B, t2v-A14B (text only) or i2v-A14B (needs an image)
    #[arg(long, default_value = "ti2v-5B")]
    pub model: String,
    /// What the video shows
    #[arg(long, required_unless_present = "file")]
    pub prompt: Option<String>,
    /// What it must not show; '' for nothing at all
    #[arg(long)]
    pub negative_prompt: Option<String>,
    /// WIDTHxHEIGHT, such as 1280x704; of a picture that keeps its shape: 480p or 720p [default: the picture's]
    #[arg(long)]
    pub size: Option<String>,
    /// 4n+1 frames, such as 121
    #[arg(long)]
    pub frames: Option<u32>,
    /// In place of steps, guidance and shift: 4 steps of a distilled model, Wan2.2's own, or the most steps
    #[arg(long, value_enum, conflicts_with_all = ["steps", "guidance", "guidance_high_noise", "shift"])]
    pub quality: Option<QualityArg>,
    /// Denoising steps
    #[arg(long)]
    pub steps: Option<u32>,
    /// How closely the prompt is followed
    #[arg(long, value_parser = finite)]
    pub guidance: Option<f64>,
    /// The same for the high-noise expert of the A14B models
    #[arg(long, value_parser = finite)]
    pub guidance_high_noise: Option<f64>,
    /// Shift of the timesteps
    #[arg(long, value_parser = finite)]
    pub shift: Option<f64>,
    /// The same seed gives the same video
    #[arg(long)]
    pub seed: Option<u64>,
    /// First frame: a file of at most 20 MB, or a key of the bucket that begins with images/
    #[arg(long, value_name = "FILE|KEY")]
    pub image: Option<String>,
    /// A LoRA of the bucket, as fox, fox=0.8 or fox=0.8:high; may be given three times
    #[arg(long = "lora", value_name = "NAME[=STRENGTH][:EXPERT]", value_parser = lora)]
    pub loras: Vec<LoraRequest>,
    /// Small pictures of the unfinished video while it is rendered
    #[arg(long)]
    pub preview: bool,
    #[arg(long, value_enum)]
    pub priority: Option<PriorityArg>,
    /// A name of your own for the task
    #[arg(long, conflicts_with = "idempotency_key")]
    pub id: Option<String>,
    /// Any text that names this submission; of a file: what each line's key begins with
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// A label; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// The task expires when it has not succeeded after this time, such as 30min or 2h
    #[arg(long, value_name = "DURATION", value_parser = ahead)]
    pub expires_in: Option<Duration>,
    /// One JSON task per line, or a JSON list; '-' is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = TASK_FLAGS)]
    pub file: Option<PathBuf>,
    /// Follow the tasks; exit with 1 when one ends without a video
    #[arg(long)]
    pub wait: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// What a line of a file says for itself.
const TASK_FLAGS: [&str; 15] = [
    "prompt",
    "negative_prompt",
    "size",
    "frames",
    "quality",
    "steps",
    "guidance",
    "guidance_high_noise",
    "shift",
    "seed",
    "image",
    "loras",
    "preview",
    "id",
    "expires_in",
];

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PriorityArg {
    High,
    Normal,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QualityArg {
    Fast,
    Standard,
    Best,
}

/// A LoRA as `--lora` names it.
fn lora(text: &str) -> Result<LoraRequest, String> {
    let (rest, expert) = match text.rsplit_once(':') {
        Some((rest, expert)) => {
            let expert = Expert::parse(expert).ok_or("after ':' stands high or low")?;
            (rest, Some(expert))
        }
        None => (text, None),
    };
    let (name, strength) = match rest.split_once('=') {
        Some((name, strength)) => (name, finite(strength)?),
        None => (rest, 1.0),
    };
    Ok(LoraRequest {
        name: name.to_owned(),
        strength,
        expert,
    })
}

/// A length of time as people write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(length) => Ok(length),
        Err(_) => Err("a duration is a number with a unit, such as 30min, 2h or 1d".to_owned()),
    }
}

/// The same, and more than nothing.
fn ahead(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be greater than zero, such as 30min, 2h or 1d".to_owned()),
        length => Ok(length),
    }
}

/// How far back a list goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    pub fn at(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(at) => Ok(at),
            Self::Ago(ago) => Ok(now.checked_sub(SignedDuration::try_from(ago)?)?),
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    let text = text.trim();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at = text.parse::<Timestamp>().or_else(|_| {
        let civil = text.parse::<civil::DateTime>()?;
        Ok::<_, jiff::Error>(civil.to_zoned(TimeZone::UTC)?.timestamp())
    });
    at.map(Since::At).map_err(|_| {
        "must be a duration such as 2h or 1d, or a date such as 2026-11-30 or 2026-11-30T18:00Z"
            .to_owned()
    })
}

/// JSON has no NaN and no infinity: they would be sent as if nothing had been said.
fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("must be a number, such as 5.0".to_owned()),
    }
}

/// Becomes the alpha of a LoRA, which engines take above 0 only.
fn strength(text: &str) -> Result<f64, String> {
    match finite(text)? {
        number if number > 0.0 => Ok(number),
        _ => Err("must be above 0; 1 takes the matrices as they are".to_owned()),
    }
}

fn stray(text: &str) -> Result<String, String> {
    Err(format!("write a prompt as --prompt {text:?}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel watch                    everything, until Ctrl-C
  spotreel watch <ID> <ID>          until both have ended
  spotreel watch --json | jq .type  every event as a JSON line")]
pub struct WatchArgs {
    /// The tasks; all of them when none is given
    pub ids: Vec<String>,
    /// Print events and progress as JSON lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel list
  spotreel list --label batch=night --since 1d
  spotreel list --state failed --all --json | jq -r .id | xargs -r spotreel retry")]
pub struct ListArgs {
    /// queued, started, succeeded, failed, cancelled or expired
    #[arg(long)]
    pub state: Option<String>,
    /// ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long)]
    pub model: Option<String>,
    /// Only tasks with this label; a key alone stands for any value
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Option<String>,
    /// Only tasks that were submitted with a key of this owner
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Only tasks that changed since: a duration, such as 2h or 1d, a date, or a time; without a zone it is UTC
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub since: Option<Since>,
    /// The most tasks to print
    #[arg(long, default_value_t = 50, conflicts_with = "all")]
    pub limit: u32,
    /// Print all of them
    #[arg(long)]
    pub all: bool,
    /// Print one JSON task per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The task's id, or the first characters of one that spotreel gave
    pub id: String,
    /// Print the task as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel get <ID>                 into ./<ID>.mp4
  spotreel get <ID> -o fox.mp4
  spotreel get <ID> <ID> -o videos/ into videos/<ID>.mp4, each
  spotreel get <ID> -o - | ffplay -")]
pub struct GetArgs {
    /// The tasks' ids, or the first characters of ids that spotreel gave
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// A file, a directory (with a slash at its end it is made), or '-' for standard output; <ID>.mp4 by default
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub output: Option<PathBuf>,
    /// Print path, size and SHA-256 as one JSON line per video
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").args(CANCEL_BY).multiple(true).required(true))]
#[command(after_help = "Examples:
  spotreel cancel <ID> <ID>
  spotreel cancel --label batch=night
  spotreel cancel --model t2v-A14B --state queued

Of several flags, a task must fit each. The same command again is safe.")]
pub struct CancelArgs {
    /// The tasks' ids; or say which tasks by --label, --state, --model or --owner
    #[arg(conflicts_with_all = CANCEL_FILTERS)]
    pub ids: Vec<String>,
    /// All tasks with this label that have not ended; a key alone stands for any value
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Option<String>,
    /// All tasks in this state: queued or started
    #[arg(long)]
    pub state: Option<String>,
    /// All tasks of this model that have not ended
    #[arg(long)]
    pub model: Option<String>,
    /// All tasks of this owner that have not ended
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Print one JSON task per line; with flags that name tasks, one JSON document
    #[arg(long)]
    pub json: bool,
}

const CANCEL_FILTERS: [&str; 4] = ["label", "state", "model", "owner"];
/// One of them must be there, and the message without any names them all.
const CANCEL_BY: [&str; 5] = ["ids", "label", "state", "model", "owner"];

#[derive(Debug, Args)]
pub struct IdsArgs {
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Print one JSON task per line
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_command_and_only_those() {
        let help = Cli::command().render_help().to_string();
        let section = help
            .split("Commands:")
            .nth(1)
            .unwrap()
            .split("Options:")
            .next()
            .unwrap();
        let listed: Vec<_> = section
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let wanted = [
            "dev",
            "provision",
            "quote",
            "submit",
            "watch",
            "list",
            "status",
            "get",
            "cancel",
            "retry",
            "why",
            "batches",
            "fleet",
            "run",
            "hold",
            "resume",
            "stop",
            "drain",
            "keys",
            "models",
            "help",
        ];
        assert_eq!(listed, wanted);
    }

    #[test]
    fn flags_for_the_connection_are_explained_once_and_not_in_every_help() {
        let mut command = Cli::command();
        let whole = command.render_help().to_string();
        let global = command.get_arguments().filter(|arg| arg.is_global_set());
        for flag in global.filter_map(|arg| arg.get_long()) {
            assert!(whole.contains(&format!("--{flag}")), "{flag}: {whole}");
        }
        let list = command.find_subcommand_mut("list").unwrap();
        let help = list.render_help().to_string();
        assert!(!help.contains("--nats-url"), "{help}");
    }

    #[test]
    fn a_cancel_of_nothing_is_told_all_that_it_could_name() {
        let refused = Cli::try_parse_from(["spotreel", "cancel"]).unwrap_err();
        let text = refused.to_string();
        for way in ["IDS", "--label", "--state", "--model", "--owner"] {
            assert!(text.contains(way), "{text}");
        }
    }

    #[test]
    fn a_lora_is_a_name_a_strength_and_an_expert() {
        let lora = |text: &str| lora(text).map(|one| (one.name, one.strength, one.expert));
        assert_eq!(lora("fox"), Ok(("fox".into(), 1.0, None)));
        let all = ("fox".into(), -0.5, Some(Expert::High));
        assert_eq!(lora("fox=-0.5:high"), Ok(all));
        let expert = ("fox".into(), 1.0, Some(Expert::Low));
        assert_eq!(lora("fox:low"), Ok(expert));
        assert!(lora("fox=much").is_err() && lora("fox:middle").is_err());
    }

    #[test]
    fn a_file_says_everything_itself() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("spotreel submit -f tasks.jsonl --wait").is_ok());
        assert!(parse("spotreel submit -f tasks.jsonl --seed 3").is_err());
        assert!(
            parse("spotreel submit -f t --label a=b --priority high --idempotency-key n").is_ok()
        );
        assert!(parse("spotreel submit").is_err());
        assert!(parse("spotreel submit --prompt fox --label a").is_err());
        assert!(parse("spotreel --dir d submit --prompt fox --label a=b").is_ok());
    }

    #[test]
    fn wrong_numbers_and_stray_words_are_refused() {
        let refused = |line: &str| {
            let refused = Cli::try_parse_from(line.split(' ')).unwrap_err();
            refused.to_string()
        };
        for number in ["nan", "inf", "-inf", "five"] {
            let text = refused(&format!("spotreel submit --prompt fox --guidance={number}"));
            assert!(text.contains("must be a number"), "{text}");
        }
        let text = refused("spotreel submit --prompt fox --expires-in 0s");
        assert!(text.contains("greater than zero"), "{text}");
        let text = refused("spotreel submit --prompt fox --expires-in soon");
        assert!(text.contains("such as 30min, 2h or 1d"), "{text}");
        let text = refused("spotreel submit fox");
        assert!(text.contains("--prompt \"fox\""), "{text}");
    }

    #[test]
    fn lists_go_back_by_durations_dates_and_times() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let at = |text: &str| since(text).unwrap().at(now).unwrap().to_string();
        assert_eq!(at("2h"), "2026-11-30T10:00:00Z");
        assert_eq!(at("2026-11-29"), "2026-11-29T00:00:00Z");
        assert_eq!(at("2026-11-29T18:00"), "2026-11-29T18:00:00Z");
        assert_eq!(at("2026-11-29T18:00:00+01:00"), "2026-11-29T17:00:00Z");
        for bad in ["yesterday", "", "5"] {
            let told = since(bad).unwrap_err();
            assert!(told.contains("such as 2h or 1d"), "{bad}: {told}");
        }
        let ever = Since::Ago(Duration::MAX).at(now);
        assert!(ever.is_err(), "there was no such time: {ever:?}");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("spotreel dev --dir d --trigger-at 5 --max-wait 1h").is_ok());
        assert!(parse("spotreel dev --dir d --trigger-at 0").is_err());
        assert!(parse("spotreel dev --dir d --workers 2 --trigger-at 5").is_err());
        assert!(parse("spotreel fleet --pool a --json").is_ok());
        assert!(parse("spotreel fleet reap --every 15m --all").is_ok());
        assert!(parse("spotreel fleet reap --every 15m --once").is_err());
        assert!(parse("spotreel hold").is_err());
        let template = "spotreel fleet template";
        assert!(parse(&format!("{template} --ami a --user-data f")).is_ok());
        assert!(parse(&format!("{template} --ami a --image i --parameters /p")).is_ok());
        assert!(parse(&format!("{template} --print --image i --parameters /p")).is_ok());
        assert!(parse(&format!("{template} --ami a --image i")).is_err());
        assert!(
            parse(&format!(
                "{template} --ami a --image i --parameters /p --user-data f"
            ))
            .is_err()
        );
        assert!(parse(&format!("{template} --user-data f")).is_err());
        assert!(parse("spotreel cancel").is_err());
        assert!(parse("spotreel cancel a b").is_ok());
        assert!(parse("spotreel cancel --label night=1 --state queued").is_ok());
        assert!(parse("spotreel cancel a --label night=1").is_err());
        assert!(parse("spotreel batches default-1 --limit 3").is_err());
        assert!(parse("spotreel stop default-1 --now --by me").is_ok());
    }
}
