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
    /// Make a key, and print its token this once
    Create(CreateKeyArgs),
    /// The keys, the oldest first
    List(ListKeysArgs),
    /// Take a key away, for good
    Revoke(RevokeKeyArgs),
}

#[derive(Debug, Args)]
pub struct CreateKeyArgs {
    /// Whose tasks it submits and sees: a-z, 0-9, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    pub owner: String,
    /// It sees the tasks of every owner, and those without one
    #[arg(long)]
    pub all: bool,
    /// Tasks that it may submit a minute
    #[arg(long, value_name = "N", default_value_t = spotreel_domain::api_key::USUAL_TASKS_PER_MINUTE)]
    pub tasks_per_minute: u32,
    /// It ends after so long, such as 90d; never otherwise
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// What it is for
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
    /// As `spotreel keys list` shows it; it stands in the token, too
    pub id: String,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
