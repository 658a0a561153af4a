//! What tasks and batches cost, and for what.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use spotreel_domain::allocation::{
    AttemptLine, BatchLedger, CostGroup, CostLines, InstanceLine, TaskShare, TimeSplit,
};
use spotreel_domain::batch::BatchId;
use spotreel_domain::{Model, Owner, TaskId, Usd};
use utoipa::ToSchema;

use crate::whole;

/// Tasks that a batch's receipt names if nobody says how many.
pub const USUAL_RECEIPT_TASKS: u32 = 100;
/// The most tasks that a batch's receipt names.
pub const MAX_RECEIPT_TASKS: u32 = 1_000;
/// The days of a cost report if nobody says which.
pub const USUAL_COST_DAYS: i32 = 30;
/// The longest span of a cost report, in days: the ledger is kept for 400.
pub const MAX_COST_DAYS: i32 = 400;

/// `spotreel.receipt`: of a task or of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiptQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Number of tasks that a batch's receipt names, those with the highest costs.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub tasks: Option<u32>,
}

/// What one task cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskReceipt {
    pub task: TaskId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Nothing will be added: the task has ended, and so have its batches.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub total: Usd,
    pub lines: CostLines,
    pub time: TimeSplit,
    /// The batches in which it was rendered.
    pub batches: Vec<TaskInBatch>,
    /// Attempts whose cost is not known: on your own machines, or before costs were kept.
    pub unpriced_attempts: u32,
}

/// What one task cost in one batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskInBatch {
    #[schema(value_type = String)]
    pub batch: BatchId,
    /// The batch has ended, and its ledger is closed.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub total: Usd,
    pub attempts: Vec<AttemptLine>,
}

/// What one batch cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchReceipt {
    #[schema(value_type = String)]
    pub batch: BatchId,
    pub requested_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The batch has ended, and its ledger is closed.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub total: Usd,
    pub lines: CostLines,
    /// What no task pays, because nothing was rendered.
    pub unallocated: CostLines,
    pub instances: Vec<InstanceLine>,
    /// Number of its tasks.
    pub task_count: usize,
    /// Those with the highest costs first.
    pub tasks: Vec<TaskCost>,
    /// What the other tasks cost together.
    pub other_tasks: Usd,
}

/// A task in the receipt of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskCost {
    pub task: TaskId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    pub model: Model,
    pub attempts: usize,
    pub total: Usd,
    pub lines: CostLines,
    pub time: TimeSplit,
}

impl TaskReceipt {
    /// Of nothing yet.
    pub fn new(task: TaskId) -> Self {
        Self {
            task,
            owner: None,
            model: None,
            labels: BTreeMap::new(),
            is_final: true,
            total: Usd::ZERO,
            lines: CostLines::default(),
            time: TimeSplit::default(),
            batches: Vec::new(),
            unpriced_attempts: 0,
        }
    }

    /// Adds what it cost in one batch.
    pub fn add(&mut self, batch: BatchId, share: TaskShare, is_final: bool) {
        self.owner = share.owner;
        self.model = Some(share.model);
        self.labels = share.labels;
        self.is_final &= is_final;
        self.total += share.total;
        self.lines += share.lines;
        self.time += share.time;
        self.batches.push(TaskInBatch {
            batch,
            is_final,
            total: share.total,
            attempts: share.attempts,
        });
    }
}

impl BatchReceipt {
    /// Of a ledger, without its tasks.
    pub fn of(ledger: BatchLedger, is_final: bool) -> Self {
        Self {
            batch: ledger.batch,
            requested_at: ledger.requested_at,
            ended_at: ledger.ended_at,
            is_final,
            total: ledger.total,
            lines: ledger.lines,
            unallocated: ledger.unallocated,
            instances: ledger.instances,
            task_count: ledger.task_count,
            tasks: Vec::new(),
            other_tasks: Usd::ZERO,
        }
    }

    /// Names the `most` tasks with the highest costs.
    pub fn name(&mut self, mut tasks: Vec<TaskCost>, most: usize) {
        tasks.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.task.cmp(&b.task)));
        let others = tasks.split_off(tasks.len().min(most));
        self.other_tasks = others.iter().map(|task| task.total).sum();
        self.tasks = tasks;
    }
}

impl From<TaskShare> for TaskCost {
    fn from(share: TaskShare) -> Self {
        Self {
            task: share.task,
            owner: share.owner,
            model: share.model,
            attempts: share.attempts.len(),
            total: share.total,
            lines: share.lines,
            time: share.time,
        }
    }
}

/// `spotreel.costs`, and the query of `GET /v1/costs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostsQuery {
    /// The first day, in UTC; absent: 30 days before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Date>,
    /// The day after the last one; absent: tomorrow, so that today is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Date>,
    pub by: CostGroup,
    /// The costs of one owner's tasks alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}
