//! Keys of the HTTP API.

use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel keys create --owner anna --note laptop --expires-in 90d
  spotreel keys create --owner dashboard --all
  spotreel keys list
  spotreel keys revoke k3v7q2ma5xwd")]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Create a key and print its token; the token cannot be shown again
    Create(CreateKeyArgs),
    /// List the keys, the oldest first
    List(ListKeysArgs),
    /// Revoke a key permanently
    Revoke(RevokeKeyArgs),
}

#[derive(Debug, Args)]
pub struct CreateKeyArgs {
    /// Owner whose tasks the key may submit and see: 1 to 64 of a-z, 0-9, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    pub owner: String,
    /// Let the key see the tasks of all owners, and those without an owner
    #[arg(long)]
    pub all: bool,
    /// Maximum number of tasks that the key may submit per minute
    #[arg(long, value_name = "N", default_value_t = spotreel_api::USUAL_TASKS_PER_MINUTE)]
    pub tasks_per_minute: u32,
    /// Time after which the key expires, such as 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// Note that `spotreel keys list` shows, such as the purpose of the key
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub note: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ListKeysArgs {
    /// Print one JSON key per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RevokeKeyArgs {
    /// Id of the key, as `spotreel keys list` shows it; it is also part of the token
    pub id: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
