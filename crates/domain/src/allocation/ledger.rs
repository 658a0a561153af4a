//! The ledger of one batch, as it is kept and shown.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::lines::{CostLines, TimeSplit};
use crate::api_key::Owner;
use crate::batch::{BatchId, Ending};
use crate::fleet::cloud::Lifecycle;
use crate::id::TaskId;
use crate::model::Model;
use crate::money::Usd;
use crate::task::AttemptOutcome;

/// What a batch cost, and for what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchLedger {
    pub batch: BatchId,
    pub requested_at: Timestamp,
    /// Absent: it goes on, and the ledger tells how it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    pub total: Usd,
    pub lines: CostLines,
    /// What no task pays, because no task was rendered.
    pub unallocated: CostLines,
    /// Number of its tasks.
    pub task_count: usize,
    /// By id.
    pub instances: Vec<InstanceLine>,
    /// By id. Kept apart: there may be many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskShare>,
    /// The same costs by day, owner, model and labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CostCell>,
}

/// What an instance cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceLine {
    pub instance: String,
    /// The instance type.
    pub kind: String,
    pub zone: String,
    #[schema(value_type = String)]
    pub lifecycle: Lifecycle,
    pub launched_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ending: Option<Ending>,
    pub time: TimeSplit,
    pub total: Usd,
    pub lines: CostLines,
}

/// What a task cost in one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskShare {
    pub task: TaskId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub model: Model,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub total: Usd,
    /// Its own attempts, and its share of what belongs to no attempt.
    pub lines: CostLines,
    /// Of its own attempts.
    pub time: TimeSplit,
    /// The oldest first.
    pub attempts: Vec<AttemptLine>,
}

/// What one attempt cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptLine {
    /// 1 for the task's first.
    pub number: u32,
    pub instance: String,
    pub kind: String,
    pub zone: String,
    #[schema(value_type = String)]
    pub lifecycle: Lifecycle,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    pub outcome: AttemptOutcome,
    pub from_step: u32,
    pub time: TimeSplit,
    pub total: Usd,
    pub lines: CostLines,
}

/// Costs of one day, owner, model and set of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostCell {
    /// In UTC, as budgets are kept.
    pub day: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Absent: no task pays it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub lines: CostLines,
    /// Videos finished on that day.
    #[serde(default)]
    pub videos: u64,
}
