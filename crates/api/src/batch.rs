//! Batches as people and programs see them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, BatchId, Blocked, PoolName, Receipt, Residency, Status, Stop};

use crate::whole;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchView {
    pub id: BatchId,
    pub pool: PoolName,
    pub status: String,
    pub rule: String,
    pub why: String,
    pub units: u32,
    pub requested_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_ready_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<Timestamp>,
    /// When the state was entered.
    pub at: Timestamp,
    pub instances: InstanceCounts,
    pub interruptions: u32,
    pub tasks_done: u64,
    /// Machines in a row that ended before they served; 0 once one serves.
    #[serde(default)]
    pub never_served: u32,
    /// Why the last of them did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub never_served_why: Option<String>,
    /// What that machine's console says, once it was read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub never_served_console: Option<String>,
    /// A person has ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop: Option<Stop>,
    /// Nothing can be launched, and why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blocked: Option<Blocked>,
    /// So far.
    pub cost: Usd,
    /// What it has cost and saved so far that machines stay without work.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub residency: Option<Residency>,
    /// Once it has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub receipt: Option<Receipt>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCounts {
    /// Not known to be gone: it may cost money.
    pub active: usize,
    pub gone: usize,
}

impl BatchView {
    /// With what it has cost by `now`.
    pub fn of(batch: &Batch, now: Timestamp) -> Self {
        let books = Receipt::of(batch, now);
        let gone = batch.instances.iter().filter(|one| one.is_gone()).count();
        Self {
            id: batch.id.clone(),
            pool: batch.id.pool.clone(),
            status: batch.status.name().to_owned(),
            rule: batch.rule.clone(),
            why: batch.why.clone(),
            units: batch.units,
            requested_at: batch.requested_at,
            first_ready_at: batch.first_ready_at,
            ended_at: batch.ended_at,
            at: batch.at,
            instances: InstanceCounts {
                active: batch.instances.len() - gone,
                gone,
            },
            interruptions: books.interruptions,
            tasks_done: batch.tasks_done,
            never_served: batch.breaker.failures,
            never_served_console: batch
                .breaker
                .last
                .as_ref()
                .and_then(|last| last.console.clone())
                .filter(|console| !console.is_empty()),
            never_served_why: batch.breaker.last.as_ref().map(|last| last.reason.clone()),
            stop: batch.stop.clone(),
            blocked: batch.blocked.clone(),
            cost: books.total,
            residency: books.residency.clone(),
            receipt: batch.status.is_final().then_some(books),
            reason: match &batch.status {
                Status::Failed { reason } => Some(reason.clone()),
                _ => None,
            },
        }
    }
}

/// `spotreel.batches`: newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchesQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// One batch alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub limit: Option<u32>,
}
