//! The command line of `spotreel`, and the text of `--help`.

mod costs;
mod dev;
mod fleet;
mod keys;
mod models;
mod provision;
mod submit;
mod tasks;
#[cfg(test)]
mod tests;
mod values;
mod webhooks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use costs::{CostArgs, CostFormat, ReceiptArgs};
pub use dev::{DevArgs, DevChildArgs};
pub use fleet::{
    AlarmsArgs, BatchesArgs, DrainArgs, Ec2Args, EventsArgs, FleetArgs, FleetCommand, HoldArgs,
    ReapArgs, ResumeArgs, RunArgs, StopArgs, TemplateArgs, TopArgs, WhyArgs,
};
pub use keys::{CreateKeyArgs, KeysArgs, KeysCommand, ListKeysArgs, RevokeKeyArgs};
pub use models::{
    AddLoraArgs, BucketArgs, ListLorasArgs, ListModelsArgs, LoraArgs, LoraCommand, ModelsArgs,
    ModelsCommand, PackModelArgs, PruneModelsArgs, PullModelsArgs, PushModelArgs, RemoveLoraArgs,
    VerifyModelArgs,
};
pub use provision::ProvisionArgs;
pub use submit::{QuoteArgs, SubmitArgs};
pub use tasks::{CancelArgs, GetArgs, IdsArgs, ListArgs, SearchArgs, StatusArgs, WatchArgs};
pub use values::duration;
use values::{finite, pair, strength};
pub use webhooks::{
    CreateWebhookArgs, DeliveriesArgs, DeliveryStateArg, RecoverArgs, WebhooksArgs, WebhooksCommand,
};

/// Renders videos from prompts: submit tasks, watch them, download the videos.
#[derive(Debug, Parser)]
#[command(
    name = "spotreel",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  spotreel dev --dir .spotreel                  run the whole system in one terminal
  export SPOTREEL_DIR=.spotreel                 then, in another terminal
  spotreel submit --prompt 'a red fox in the snow' --wait
  spotreel get <ID> -o fox.mp4

Connection of every command; the first of these that is given is used, the others are ignored:
  --dir DIR, SPOTREEL_DIR       the directory of a running `spotreel dev`
  --context NAME                a context of the nats command
  NATS_URL, NATS_USER, NATS_PASSWORD, NATS_CREDS
  NATS_CONTEXT                  a context of the nats command
  none of them                  the selected context of the nats command, else nats://127.0.0.1:4222
These flags then replace single values:
  --nats-url URL, --nats-user NAME, --nats-password PASSWORD, --nats-creds FILE
  --operator                    connect as SPOTREEL_OPERATOR_USER with SPOTREEL_OPERATOR_PASSWORD; orders always do

Exit codes: 0 success, 1 failed or refused, 2 wrong usage."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole system on this machine, with a renderer that needs no GPU
    Dev(DevArgs),
    /// Create the streams, consumers and buckets that do not exist yet
    Provision(ProvisionArgs),
    /// Estimate time and price of tasks without submitting them
    Quote(QuoteArgs),
    /// Submit one task, or a file of tasks
    Submit(Box<SubmitArgs>),
    /// Follow tasks while they are rendered
    Watch(WatchArgs),
    /// List tasks, the most recently changed first
    List(ListArgs),
    /// Find tasks by words of the prompt and by filters, the newest submission first
    Search(SearchArgs),
    /// Show one task with its progress and its attempts
    Status(StatusArgs),
    /// Download finished videos and verify their SHA-256
    Get(GetArgs),
    /// Cancel unfinished tasks by id, label, state, model or owner
    Cancel(CancelArgs),
    /// Queue failed, cancelled or expired tasks again
    Retry(IdsArgs),
    /// Show which rule will start a batch, when, and what each rule still lacks
    Why(WhyArgs),
    /// Show batches with their reason, history and cost
    Batches(BatchesArgs),
    /// Show the running instances with their task and cost
    Fleet(FleetArgs),
    /// Show queue, batches, machines and costs, drawn anew every second
    Top(TopArgs),
    /// Print events of tasks, batches and alarms; --follow waits for more
    Events(EventsArgs),
    /// Show alarms with their state, and what to do about them
    Alarms(AlarmsArgs),
    /// Show the cost of a task or a batch, line by line
    Receipt(ReceiptArgs),
    /// Show total costs by day, month, batch, pool, model, owner or label
    Cost(CostArgs),
    /// Start a batch now, without waiting for a rule
    Run(RunArgs),
    /// Block all launches until `resume`
    Hold(HoldArgs),
    /// End a hold: launches are allowed again
    Resume(ResumeArgs),
    /// Stop a batch: its instances are terminated, its tasks stay queued
    Stop(StopArgs),
    /// Drain one instance: it takes no further task and is terminated
    Drain(DrainArgs),
    /// Create, list and revoke keys of the HTTP API
    Keys(KeysArgs),
    /// Send events to URLs: create, list, rotate and delete endpoints, and show their deliveries
    Webhooks(WebhooksArgs),
    /// Make, push, pull, verify, list and prune model packs
    Models(ModelsArgs),
    /// Starts a program of `dev` and ends it when `dev` ends
    #[command(hide = true)]
    DevChild(DevChildArgs),
}

/// Hidden flags are explained in the help of `spotreel` itself; in each command's help they would be most of the text.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection (more flags in `spotreel --help`)")]
pub struct ConnectionArgs {
    /// Directory of a running `spotreel dev`
    #[arg(long, global = true, env = "SPOTREEL_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Connect as the operator of SPOTREEL_OPERATOR_USER and SPOTREEL_OPERATOR_PASSWORD; orders always do
    #[arg(long, global = true, hide = true)]
    pub operator: bool,
    /// Address of the NATS server [env: NATS_URL]
    #[arg(long, global = true, hide = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// NATS user [env: NATS_USER]
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Password of the NATS user; prefer NATS_PASSWORD, which other users of this machine cannot see
    #[arg(long, global = true, hide = true, value_name = "PASSWORD")]
    pub nats_password: Option<String>,
    /// File with NATS credentials, in place of user and password [env: NATS_CREDS]
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub nats_creds: Option<String>,
    /// Context of the nats command [env: NATS_CONTEXT] [default: the selected one]
    #[arg(long, global = true, hide = true, value_name = "NAME")]
    pub context: Option<String>,
}
