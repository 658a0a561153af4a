//! Requests and orders to trigger, and their answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::batch::PoolName;
use crate::model::Model;
use crate::pool::Cloud;
use crate::trigger::{Budgets, Decision, View};
use crate::whole;

/// `spotreel.why`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhyQuery {
    /// Absent: every pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Which rule will run the queue and when at the latest, or what blocks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub pools: Vec<PoolWhy>,
    /// Batches that have not ended, of pools that the configuration does not have: fleet drains them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Why the truth cannot be read now; the pools are shown as they were when it last could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolWhy {
    pub pool: PoolName,
    pub models: Vec<Model>,
    pub cloud: Cloud,
    #[serde(default)]
    pub budgets: Budgets,
    pub decision: Decision,
    /// What it was decided on: counts, prices with the time they were asked for, what was spent.
    pub view: View,
}

/// `spotreel.ops.run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunOrder {
    /// May be left out where there is one pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Even though launches are held.
    pub force: bool,
}

/// `spotreel.ops.hold`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldOrder {
    /// Absent: every pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub reason: String,
}

/// `spotreel.ops.resume`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResumeOrder {
    /// Absent: every pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// The order stands, on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    pub pools: Vec<PoolName>,
    pub at: Timestamp,
    /// Of an order to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
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
