//! Tasks that exist: follow, list, show, download, cancel, retry.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::values::{Since, limit, since};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel watch                    all tasks, until Ctrl-C
  spotreel watch <ID> <ID>          two tasks, until both have ended
  spotreel watch --json | jq .type  each event as a JSON line")]
pub struct WatchArgs {
    /// Ids of the tasks [default: all tasks]
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
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Only tasks that changed after this time: a duration before now, such as 2h or 1d, or a date or time, in UTC
    /// if it has no zone
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub since: Option<Since>,
    #[command(flatten)]
    pub output: TaskOutputArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel search fox snow                       prompts with both words
  spotreel search '\"red fox\"'                  the two words next to each other
  spotreel search 狐狸 --since 7d                 any part of a Chinese, Japanese or Korean text
  spotreel search --state failed --since 7d --until 1d
  spotreel search --batch default-17 --all --json | jq -r .id")]
pub struct SearchArgs {
    /// Words that the prompt must contain, in any order
    pub text: Vec<String>,
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Only tasks with an attempt in this batch
    #[arg(long, value_name = "BATCH")]
    pub batch: Option<String>,
    /// Only tasks submitted after this time: a duration before now, such as 2h or 7d, or a date or time, in UTC if it has
    /// no zone
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub since: Option<Since>,
    /// Only tasks submitted before this time, in the same format as --since
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    pub until: Option<Since>,
    #[command(flatten)]
    pub output: TaskOutputArgs,
}

/// The filters of a list and of a search.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only tasks in this state: queued, started, succeeded, failed, cancelled or expired
    #[arg(long)]
    pub state: Option<String>,
    /// Only tasks of this model: ti2v-5B, t2v-A14B or i2v-A14B
    #[arg(long)]
    pub model: Option<String>,
    /// Only tasks with this label; KEY alone matches any value
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Option<String>,
    /// Only tasks that were submitted with a key of this owner
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
}

/// How many tasks are printed, and how.
#[derive(Debug, Args)]
pub struct TaskOutputArgs {
    /// Maximum number of tasks to print
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = limit, conflicts_with = "all")]
    pub limit: u32,
    /// Print all tasks
    #[arg(long)]
    pub all: bool,
    /// Print one JSON task per line
    #[arg(long)]
    pub json: bool,
}

impl TaskOutputArgs {
    /// The most tasks that are printed.
    pub fn most(&self) -> u32 {
        if self.all { u32::MAX } else { self.limit }
    }
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Id of the task, or the first characters of a generated id
    pub id: String,
    /// Print the task as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel get <ID>                 to ./<ID>.mp4
  spotreel get <ID> -o fox.mp4
  spotreel get <ID> <ID> -o videos/ each to videos/<ID>.mp4
  spotreel get <ID> -o - | ffplay -")]
pub struct GetArgs {
    /// Ids of the tasks, or the first characters of generated ids
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Output file, or directory (created if the name ends with a slash), or '-' for standard output
    /// [default: <ID>.mp4]
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

With several flags, only tasks that match all of them are cancelled. It is safe to run the command again.")]
pub struct CancelArgs {
    /// Ids of the tasks; instead of ids, give --label, --state, --model or --owner
    #[arg(conflicts_with_all = CANCEL_FILTERS)]
    pub ids: Vec<String>,
    /// Only unfinished tasks with this label; KEY alone matches any value
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Option<String>,
    /// Only tasks in this state: queued or started
    #[arg(long)]
    pub state: Option<String>,
    /// Only unfinished tasks of this model
    #[arg(long)]
    pub model: Option<String>,
    /// Only unfinished tasks of this owner
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Print one JSON task per line; with --label, --state, --model or --owner, one JSON document
    #[arg(long)]
    pub json: bool,
}

const CANCEL_FILTERS: [&str; 4] = ["label", "state", "model", "owner"];
/// At least one of them is required; the error message without any names them all.
const CANCEL_BY: [&str; 5] = ["ids", "label", "state", "model", "owner"];

#[derive(Debug, Args)]
pub struct IdsArgs {
    /// Ids of the tasks
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Print one JSON task per line
    #[arg(long)]
    pub json: bool,
}
