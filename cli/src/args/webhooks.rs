//! Webhooks.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel webhooks create https://example.org/hook --event task.succeeded --event task.failed
  spotreel webhooks list
  spotreel webhooks deliveries k3v7q2ma5xwd --state failed --since 2h
  spotreel webhooks resend k3v7q2ma5xwd 4711
  spotreel webhooks recover k3v7q2ma5xwd --since 2d
  spotreel webhooks secret --owner anna

Use `callbacks` instead of an endpoint's id for the deliveries to the callback_url of tasks.")]
pub struct WebhooksArgs {
    #[command(subcommand)]
    pub command: WebhooksCommand,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// Create an endpoint that receives events; its secret is printed only this once
    Create(CreateWebhookArgs),
    /// List the endpoints with their state and queue
    List,
    /// List deliveries with their state, tries, reason and next try
    Deliveries(DeliveriesArgs),
    /// Send one event again now, and show the result
    Resend(ResendArgs),
    /// Send all undelivered events of a time span again
    Recover(RecoverArgs),
    /// Replace the secret; for one day, deliveries are signed with both
    Rotate(WebhookArgs),
    /// Stop deliveries to an endpoint
    Disable(DisableWebhookArgs),
    /// Resume deliveries to a disabled endpoint, starting with the first event that it has not received
    Enable(WebhookArgs),
    /// Delete an endpoint with its queue
    Delete(WebhookArgs),
    /// Show the secret that signs the callbacks of one owner's tasks
    Secret(SecretArgs),
}

#[derive(Debug, Args)]
pub struct CreateWebhookArgs {
    /// URL that receives the events
    pub url: String,
    /// Event to send, such as task.succeeded, task.*, batch.settled or webhook.*; can be repeated [default: all]
    #[arg(long = "event", value_name = "EVENT")]
    pub events: Vec<String>,
    /// Send only events of this owner's tasks
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Note that `spotreel webhooks list` shows
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub note: String,
}

#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Id of the endpoint, as `spotreel webhooks list` shows it
    pub id: String,
}

#[derive(Debug, Args)]
pub struct DisableWebhookArgs {
    /// Id of the endpoint, as `spotreel webhooks list` shows it
    pub id: String,
    /// Reason that `spotreel webhooks list` shows
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct DeliveriesArgs {
    /// Id of the endpoint, or `callbacks`
    pub id: String,
    /// Show only deliveries in this state
    #[arg(long, value_enum)]
    pub state: Option<DeliveryStateArg>,
    /// Show only deliveries that were tried within this time, such as 2h or 3d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Maximum number of deliveries
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub limit: u32,
    /// Cursor that the list before printed at its end
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DeliveryStateArg {
    Delivered,
    Waiting,
    Failed,
}

#[derive(Debug, Args)]
pub struct ResendArgs {
    /// Id of the endpoint, or `callbacks`
    pub id: String,
    /// Number of the event, as `spotreel webhooks deliveries` shows it
    pub sequence: u64,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Id of the endpoint, as `spotreel webhooks list` shows it
    pub id: String,
    /// Maximum age of the events, such as 2h or 3d; events are kept for 45 days
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Duration,
}

#[derive(Debug, Args)]
pub struct SecretArgs {
    /// Owner of the tasks [default: tasks that were submitted over NATS]
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Replace the secret first; for one day, callbacks are signed with both
    #[arg(long)]
    pub rotate: bool,
}
