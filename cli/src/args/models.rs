//! Model packs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use spotreel_domain::model::Model;
use spotreel_packs::{Compute, PREFIX, Scheduler};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hf download Wan-AI/Wan2.2-T2V-A14B-Diffusers --revision <COMMIT> --local-dir t2v
  spotreel models pack t2v --model t2v-A14B --to packs/t2v-A14B \\
      --source Wan-AI/Wan2.2-T2V-A14B-Diffusers --revision <COMMIT>
  spotreel models push packs/t2v-A14B                      into the bucket, for every machine
  spotreel models pull t2v-A14B --packs /var/lib/spotreel/packs
  spotreel models list --packs /var/lib/spotreel/packs
  spotreel models prune --dry-run                          what old versions left in the bucket

A pack is the weights of a model as one directory: safetensors, configurations, tokenizer, and
pack.json, which names every file with its hash.")]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// The packs in the bucket, in a directory, or in both
    List(ListModelsArgs),
    /// Bring packs from the bucket to this disk; goes on where an earlier pull ended
    Pull(PullModelsArgs),
    /// Hash a pack's files and compare with pack.json
    Verify(VerifyModelArgs),
    /// Make a pack of weights as they are published
    Pack(Box<PackModelArgs>),
    /// Send a pack to the bucket, where it becomes the model's current one
    Push(PushModelArgs),
    /// Remove from the bucket what no pack names any more
    Prune(PruneModelsArgs),
    /// LoRAs that tasks may name
    Lora(LoraArgs),
}

/// Where the bucket is: flags, then the local cloud of --dir, then the environment. Credentials are the usual ones of AWS.
#[derive(Clone, Debug, Args)]
pub struct BucketArgs {
    /// The bucket that holds the packs [env: SPOTREEL_BUCKET]
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Where in it
    #[arg(long, default_value = PREFIX, value_name = "PREFIX", value_parser = prefix)]
    pub prefix: String,
    /// Another S3 than Amazon's [env: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The bucket's region; us-east-1 where nobody says another [env: AWS_REGION]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
}

fn prefix(text: &str) -> Result<String, String> {
    match text.is_empty() || text.ends_with('/') {
        true => Ok(text.to_owned()),
        false => Err("it ends with a slash".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct ListModelsArgs {
    #[command(flatten)]
    pub store: BucketArgs,
    /// Also say what of them is in this directory of packs
    #[arg(long, env = "SPOTREEL_PACKS", value_name = "DIR")]
    pub packs: Option<PathBuf>,
    /// Print one JSON pack per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models pull ti2v-5B --packs /var/lib/spotreel/packs
  spotreel models pull t2v-A14B i2v-A14B --packs packs     what they share is fetched once

A file has its final name only when it is whole and its hash was right. A new version of a pack
takes the old one's place when it is whole. Two that pull into one directory take turns.")]
pub struct PullModelsArgs {
    /// ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(required = true, value_name = "MODEL", value_parser = model)]
    pub models: Vec<Model>,
    /// The directory of packs: each is a directory in it, named as its model
    #[arg(long, env = "SPOTREEL_PACKS", value_name = "DIR")]
    pub packs: PathBuf,
    #[command(flatten)]
    pub store: BucketArgs,
    /// Ranges in flight, of 8 MiB each; they are the memory that it takes
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// Print one JSON pack per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models verify packs/t2v-A14B
  spotreel models verify packs/t2v-A14B --engine spotreel-engine-wan

With --engine the engine loads the pack's tokenizer as it does for a render, and the ids of a few hundred
prompts are compared with those of tokenizer.json.")]
pub struct VerifyModelArgs {
    /// The pack's own directory
    pub pack: PathBuf,
    /// Command of the Wan engine, which checks how it reads the tokenizer
    #[arg(long, value_name = "COMMAND")]
    pub engine: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models pack wan --model ti2v-5B --to packs/ti2v-5B \\
      --source Wan-AI/Wan2.2-TI2V-5B-Diffusers --revision <COMMIT>
  spotreel models pack t2v --model t2v-A14B --to packs/t2v-A14B --source … --revision … \\
      --fast-high high_noise_model.safetensors --fast-low low_noise_model.safetensors \\
      --fast-source lightx2v/Wan2.2-Lightning --fast-license Apache-2.0
  spotreel models pack wan --model ti2v-5B --to packs/ti2v-5B --source … --revision … \\
      --fast-from finetune --fast-source … --fast-license … --fast-steps 3 --fast-shift 8

FROM is in diffusers' layout and stays as it is. Shards become one file; float32 becomes bfloat16,
but for the VAE and what diffusers keeps in float32. The same input makes the same pack. LoRAs are
checked: every key has a place in the model, and every number is finite. Transformers of --fast-from
have the configuration and the tensors of those in FROM, and finite numbers.")]
pub struct PackModelArgs {
    /// What was downloaded
    pub from: PathBuf,
    /// ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long, value_parser = model)]
    pub model: Model,
    /// The pack's own directory, usually PACKS/MODEL
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Where the weights are published
    #[arg(long, value_name = "REPOSITORY")]
    pub source: String,
    /// Which commit of it
    #[arg(long, value_name = "COMMIT")]
    pub revision: String,
    /// Of the weights
    #[arg(long, default_value = "Apache-2.0", value_name = "NAME")]
    pub license: String,
    /// The format that text encoder and transformers count in
    #[arg(long, value_enum, default_value_t = ComputeArg::Bfloat16)]
    pub compute: ComputeArg,
    /// A LoRA for quality `fast`: of the high-noise expert, or of the only transformer
    #[arg(long, value_name = "FILE", group = "fast", requires_all = ["fast_source", "fast_license"])]
    pub fast_high: Option<PathBuf>,
    /// The same of the low-noise expert
    #[arg(long, value_name = "FILE", requires = "fast_high")]
    pub fast_low: Option<PathBuf>,
    /// Directory in diffusers' layout whose transformers render quality `fast`, in place of LoRAs
    #[arg(long, value_name = "DIR", group = "fast", requires_all = ["fast_source", "fast_license"])]
    pub fast_from: Option<PathBuf>,
    /// Where the LoRAs or transformers for `fast` are published
    #[arg(long, value_name = "REPOSITORY", requires = "fast")]
    pub fast_source: Option<String>,
    /// Their license
    #[arg(long, value_name = "NAME", requires = "fast")]
    pub fast_license: Option<String>,
    /// Multiplies the LoRAs' matrices; needed for files without alpha
    #[arg(long, value_name = "NUMBER", requires = "fast_high", value_parser = super::strength)]
    pub fast_strength: Option<f64>,
    /// Solver that they were distilled for
    #[arg(long, value_enum, default_value_t = SchedulerArg::Euler)]
    pub fast_scheduler: SchedulerArg,
    /// Steps that they were distilled for
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub fast_steps: u32,
    /// Shift that they were distilled with
    #[arg(long, value_name = "NUMBER", default_value_t = 5.0, value_parser = super::finite)]
    pub fast_shift: f64,
    /// Guidance that they take; 1 is none
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = super::finite)]
    pub fast_guidance: f64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PushModelArgs {
    /// The pack's own directory
    pub pack: PathBuf,
    #[command(flatten)]
    pub store: BucketArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models prune --dry-run
  spotreel models prune --json                             daily, from a timer

Every pack.json under the prefix counts, whatever its model; one that cannot be read ends the
prune before anything is removed. Uploads that never ended go as well. With --older-than 0s nobody
may pull or push meanwhile: a pull by the old pack.json would miss files, and an upload would fail.")]
pub struct PruneModelsArgs {
    #[command(flatten)]
    pub store: BucketArgs,
    /// Only what is older than this, and only when the newest pack.json is: pulls by the one before
    /// it, and pushes, have ended by then
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models lora add fox-style --model ti2v-5B --file fox.safetensors
  spotreel models lora add fox-style --model t2v-A14B --high high.safetensors --low low.safetensors
  spotreel models lora list
  spotreel submit --prompt 'a fox' --lora fox-style=0.8")]
pub struct LoraArgs {
    #[command(subcommand)]
    pub command: LoraCommand,
}

#[derive(Debug, Subcommand)]
pub enum LoraCommand {
    /// Check a LoRA against its model and put it into the bucket
    Add(AddLoraArgs),
    /// The LoRAs in the bucket
    List(ListLorasArgs),
    /// Remove a LoRA from the bucket; tasks that wait for it will fail
    Remove(RemoveLoraArgs),
}

#[derive(Debug, Args)]
pub struct AddLoraArgs {
    /// What tasks call it: a-z, 0-9, '.', '_' and '-'
    pub name: String,
    /// ti2v-5B, t2v-A14B or i2v-A14B, whose pack is in the bucket
    #[arg(long, value_parser = model)]
    pub model: Model,
    /// The LoRA, for every transformer of the model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["high", "low"], required_unless_present_any = ["high", "low"])]
    pub file: Option<PathBuf>,
    /// The LoRA of the high-noise expert
    #[arg(long, value_name = "FILE")]
    pub high: Option<PathBuf>,
    /// The LoRA of the low-noise expert
    #[arg(long, value_name = "FILE")]
    pub low: Option<PathBuf>,
    /// Multiplies its matrices; needed for files without alpha
    #[arg(long, value_name = "NUMBER", value_parser = super::strength)]
    pub strength: Option<f64>,
    /// Where it is published
    #[arg(long, value_name = "REPOSITORY")]
    pub source: Option<String>,
    /// Its license
    #[arg(long, value_name = "NAME")]
    pub license: Option<String>,
    #[command(flatten)]
    pub store: BucketArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ListLorasArgs {
    #[command(flatten)]
    pub store: BucketArgs,
    /// Print one JSON LoRA per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RemoveLoraArgs {
    /// Its name
    pub name: String,
    #[command(flatten)]
    pub store: BucketArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ComputeArg {
    Bfloat16,
    Float32,
}

impl From<ComputeArg> for Compute {
    fn from(arg: ComputeArg) -> Self {
        match arg {
            ComputeArg::Bfloat16 => Self::Bfloat16,
            ComputeArg::Float32 => Self::Float32,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SchedulerArg {
    Euler,
    Unipc,
}

impl From<SchedulerArg> for Scheduler {
    fn from(arg: SchedulerArg) -> Self {
        match arg {
            SchedulerArg::Euler => Self::Euler,
            SchedulerArg::Unipc => Self::Unipc,
        }
    }
}

pub(super) fn model(text: &str) -> Result<Model, String> {
    Model::parse(text).ok_or_else(|| "ti2v-5B, t2v-A14B or i2v-A14B".to_owned())
}
