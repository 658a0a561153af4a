//! Orders of operators, to trigger and to fleet, and what fleet tells a worker for one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::batch::{DrainMode, PoolName};

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

/// The answer to these three: the order stands, on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    pub pools: Vec<PoolName>,
    pub at: Timestamp,
    /// Of an order to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `spotreel.ops.stop`: ends the batch, or the active one of a pool; without either, that of the only pool. The answer is a
/// [`BatchRef`](crate::BatchRef).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopOrder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    pub mode: DrainMode,
    #[serde(default)]
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `spotreel.ops.drain`: ends one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    pub instance: String,
    pub mode: DrainMode,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    pub instance: String,
    /// Absent: a machine of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// `ordered`, or what its worker answered.
    pub answer: String,
}

/// What fleet sends to the worker on an instance: take no further task, and leave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainRequest {
    pub mode: DrainMode,
    #[serde(default)]
    pub reason: String,
}

/// The worker's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DrainReply {
    State { state: DrainState },
    Error { error: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainState {
    /// It still has a task in hand.
    Draining,
    /// It holds nothing.
    Drained,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_of_a_stop_order_are_left_out_and_may_be() {
        let order = StopOrder {
            pool: None,
            batch: Some("default-1".into()),
            mode: DrainMode::Now,
            by: "me".into(),
            reason: None,
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(text, r#"{"batch":"default-1","mode":"now","by":"me"}"#);
        assert_eq!(serde_json::from_str::<StopOrder>(&text).unwrap(), order);
    }

    #[test]
    fn a_drain_reply_is_read_by_its_state() {
        let read = |text| serde_json::from_str::<DrainReply>(text).unwrap();
        let state = DrainState::Drained;
        assert_eq!(read(r#"{"state":"drained"}"#), DrainReply::State { state });
        let error = "no such mode".to_owned();
        assert_eq!(
            read(r#"{"error":"no such mode"}"#),
            DrainReply::Error { error }
        );
    }
}
