//! Receipts and costs.

use clap::{Args, ValueEnum};
use jiff::civil::Date;
use spotreel_domain::Owner;
use spotreel_domain::allocation::CostGroup;

/// How costs are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CostFormat {
    #[default]
    Table,
    Json,
    Csv,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel receipt default-17       a batch: its instances, and the tasks that cost most
  spotreel receipt fox-1            a task: its attempts, and its share of boots and idle time
  spotreel receipt default-17 --format csv > default-17.csv")]
pub struct ReceiptArgs {
    /// Id of a batch or of a task
    pub id: String,
    /// Treat the id as that of a task, even if it looks like the id of a batch
    #[arg(long)]
    pub task: bool,
    /// Maximum number of tasks in the receipt of a batch, those with the highest costs first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub tasks: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: CostFormat,
    /// Print one JSON document; the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spotreel cost --days 30
  spotreel cost --by owner --from 2026-11-01 --to 2026-12-01
  spotreel cost --by label:customer --format csv > costs.csv")]
pub struct CostArgs {
    /// Number of days up to today, in UTC [default: 30]
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u16).range(1..=400))]
    pub days: Option<u16>,
    /// First day, in UTC
    #[arg(long, value_name = "DATE")]
    pub from: Option<Date>,
    /// First day that is not included, in UTC [default: tomorrow]
    #[arg(long, value_name = "DATE")]
    pub to: Option<Date>,
    /// Grouping of the rows: day, month, batch, pool, model, owner, or label:NAME
    #[arg(long, value_name = "WHAT", default_value = "day", value_parser = CostGroup::parse)]
    pub by: CostGroup,
    /// Only the costs of this owner's tasks
    #[arg(long, value_name = "NAME", value_parser = Owner::parse)]
    pub owner: Option<Owner>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: CostFormat,
    /// Print one JSON document; the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}
