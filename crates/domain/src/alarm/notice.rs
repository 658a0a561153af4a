//! What an alarm has to tell and to order.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::name::AlarmName;
use crate::batch::DrainMode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    Firing,
    Resolved,
}

impl NoticeState {
    pub const ALL: [Self; 2] = [Self::Firing, Self::Resolved];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// An alarm has fired, or is over: an event for clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmNotice {
    /// Higher than that of every earlier notice. It is the place of the event in its order, and makes its id.
    pub number: u64,
    pub name: AlarmName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub state: NoticeState,
    pub at: Timestamp,
    /// When the alarm fired.
    pub fired_at: Timestamp,
    pub sentence: String,
}

impl AlarmNotice {
    /// The same for every try to tell it.
    pub fn id(&self) -> String {
        format!("alarm-{}/{}", self.name, self.number)
    }
}

/// What a used-up budget makes of batches and pools. Each is safe to carry out twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum BudgetOrder {
    /// Holds every pool that nobody holds, and stops the active batches.
    Stop {
        about: String,
        mode: DrainMode,
        reason: String,
    },
    /// Takes back the holds that alarms have given.
    Resume,
}
