//! What trigger decided for each pool, and on which facts.

use serde::{Deserialize, Serialize};
use spotreel_domain::Model;
use spotreel_domain::batch::PoolName;
use spotreel_domain::pool::Cloud;
use spotreel_domain::trigger::{Budgets, Decision, View};

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
