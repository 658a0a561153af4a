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
  spotreel models push packs/t2v-A14B                      upload to the bucket
  spotreel models pull t2v-A14B --packs /var/lib/spotreel/packs
  spotreel models list --packs /var/lib/spotreel/packs
  spotreel models prune --dry-run                          list files that no pack in the bucket uses

A pack is a directory with the weights of a model: safetensors, configurations, tokenizer, and
pack.json, which lists every file with its hash.")]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the packs in the bucket and in a local directory
    List(ListModelsArgs),
    /// Download packs from the bucket; continues an interrupted download
    Pull(PullModelsArgs),
    /// Check the files of a pack against the hashes in pack.json
    Verify(VerifyModelArgs),
    /// Make a pack from published weights
    Pack(Box<PackModelArgs>),
    /// Upload a pack to the bucket as the current version of its model
    Push(PushModelArgs),
    /// Delete files from the bucket that no pack uses
    Prune(PruneModelsArgs),
    /// Add, list and remove LoRAs for tasks
    Lora(LoraArgs),
}

/// How to reach the bucket: flags, then the local cloud of --dir, then the environment. Credentials come from the usual AWS places.
#[derive(Clone, Debug, Args)]
pub struct BucketArgs {
    /// Bucket with the packs [env: SPOTREEL_BUCKET]
    #[arg(long, value_name = "NAME")]
    pub bucket: Option<String>,
    /// Prefix of the packs' keys in the bucket; ends with a slash
    #[arg(long, default_value = PREFIX, value_name = "PREFIX", value_parser = prefix)]
    pub prefix: String,
    /// Address of an S3 service other than Amazon's [env: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket [env: AWS_REGION] [default: us-east-1]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
}

fn prefix(text: &str) -> Result<String, String> {
    match text.is_empty() || text.ends_with('/') {
        true => Ok(text.to_owned()),
        false => Err("must end with a slash".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct ListModelsArgs {
    #[command(flatten)]
    pub store: BucketArgs,
    /// Local directory of packs; its packs are listed, too
    #[arg(long, env = "SPOTREEL_PACKS", value_name = "DIR")]
    pub packs: Option<PathBuf>,
    /// Print one JSON pack per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel models pull ti2v-5B --packs /var/lib/spotreel/packs
  spotreel models pull t2v-A14B i2v-A14B --packs packs     shared files are downloaded once

A file gets its final name only when it is complete and its hash is correct. A new version of a pack replaces
the old one when it is complete. Only one pull at a time writes to a directory; others wait.")]
pub struct PullModelsArgs {
    /// Models: ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(required = true, value_name = "MODEL", value_parser = model)]
    pub models: Vec<Model>,
    /// Local directory of packs; each pack is a subdirectory named after its model
    #[arg(long, env = "SPOTREEL_PACKS", value_name = "DIR")]
    pub packs: PathBuf,
    #[command(flatten)]
    pub store: BucketArgs,
    /// Number of parallel downloads; each uses 8 MiB of memory
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

With --engine, the engine loads the pack's tokenizer as for a render, and the token ids of a few hundred
prompts are compared with those of tokenizer.json.")]
pub struct VerifyModelArgs {
    /// Directory of the pack
    pub pack: PathBuf,
    /// Command that starts the Wan engine, to check its tokenizer, too
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

FROM must be in diffusers' layout; it is not changed. The shards of a component are joined into one file.
float32 is converted to bfloat16, except in the VAE and where diffusers keeps float32. The same input always
makes the same pack. LoRAs are checked: every key must belong to the model, and every number must be finite.
Transformers of --fast-from must have the configuration and the tensors of those in FROM, and finite numbers.")]
pub struct PackModelArgs {
    /// Directory with the downloaded weights
    pub from: PathBuf,
    /// Model: ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long, value_parser = model)]
    pub model: Model,
    /// Directory of the new pack, usually PACKS/MODEL
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Repository where the weights are published
    #[arg(long, value_name = "REPOSITORY")]
    pub source: String,
    /// Commit of --source
    #[arg(long, value_name = "COMMIT")]
    pub revision: String,
    /// License of the weights
    #[arg(long, default_value = "Apache-2.0", value_name = "NAME")]
    pub license: String,
    /// Number format in which text encoder and transformers compute
    #[arg(long, value_enum, default_value_t = ComputeArg::Bfloat16)]
    pub compute: ComputeArg,
    /// LoRA for quality `fast`, of the high-noise expert or of the only transformer
    #[arg(long, value_name = "FILE", group = "fast", requires_all = ["fast_source", "fast_license"])]
    pub fast_high: Option<PathBuf>,
    /// LoRA for quality `fast`, of the low-noise expert
    #[arg(long, value_name = "FILE", requires = "fast_high")]
    pub fast_low: Option<PathBuf>,
    /// Directory in diffusers' layout with transformers for quality `fast`, in place of LoRAs
    #[arg(long, value_name = "DIR", group = "fast", requires_all = ["fast_source", "fast_license"])]
    pub fast_from: Option<PathBuf>,
    /// Repository where the LoRAs or transformers for `fast` are published
    #[arg(long, value_name = "REPOSITORY", requires = "fast")]
    pub fast_source: Option<String>,
    /// License of the LoRAs or transformers for `fast`
    #[arg(long, value_name = "NAME", requires = "fast")]
    pub fast_license: Option<String>,
    /// Factor for the LoRAs' matrices; required for files without alpha
    #[arg(long, value_name = "NUMBER", requires = "fast_high", value_parser = super::strength)]
    pub fast_strength: Option<f64>,
    /// Scheduler for which LoRAs or transformers were distilled
    #[arg(long, value_enum, default_value_t = SchedulerArg::Euler)]
    pub fast_scheduler: SchedulerArg,
    /// Number of steps for which LoRAs or transformers were distilled
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub fast_steps: u32,
    /// Timestep shift for which LoRAs or transformers were distilled
    #[arg(long, value_name = "NUMBER", default_value_t = 5.0, value_parser = super::finite)]
    pub fast_shift: f64,
    /// Guidance scale for which LoRAs or transformers were distilled; 1 is no guidance
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = super::finite)]
    pub fast_guidance: f64,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PushModelArgs {
    /// Directory of the pack
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

A file is kept if any pack.json under the prefix names it. If a pack.json cannot be read, nothing is deleted.
Incomplete uploads are deleted, too. With --older-than 0s, no pull or push may run at the same time: a pull that
uses the previous pack.json would miss files, and an upload would fail.")]
pub struct PruneModelsArgs {
    #[command(flatten)]
    pub store: BucketArgs,
    /// Minimum age of deleted files and of the newest pack.json, so that pushes, and pulls of the previous version, have
    /// ended
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// Print what would be deleted, and delete nothing
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
    /// Check a LoRA against its model and upload it to the bucket
    Add(AddLoraArgs),
    /// List the LoRAs in the bucket
    List(ListLorasArgs),
    /// Delete a LoRA from the bucket; queued tasks that name it will fail
    Remove(RemoveLoraArgs),
}

#[derive(Debug, Args)]
pub struct AddLoraArgs {
    /// Name of the LoRA in tasks: a-z, 0-9, '.', '_' and '-'
    pub name: String,
    /// Model: ti2v-5B, t2v-A14B or i2v-A14B; its pack must be in the bucket
    #[arg(long, value_parser = model)]
    pub model: Model,
    /// LoRA file for all transformers of the model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["high", "low"], required_unless_present_any = ["high", "low"])]
    pub file: Option<PathBuf>,
    /// LoRA file for the high-noise expert
    #[arg(long, value_name = "FILE")]
    pub high: Option<PathBuf>,
    /// LoRA file for the low-noise expert
    #[arg(long, value_name = "FILE")]
    pub low: Option<PathBuf>,
    /// Factor for the LoRA's matrices; required for files without alpha
    #[arg(long, value_name = "NUMBER", value_parser = super::strength)]
    pub strength: Option<f64>,
    /// Repository where the LoRA is published
    #[arg(long, value_name = "REPOSITORY")]
    pub source: Option<String>,
    /// License of the LoRA
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
    /// Name of the LoRA
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
    Model::parse(text).ok_or_else(|| "must be ti2v-5B, t2v-A14B or i2v-A14B".to_owned())
}
