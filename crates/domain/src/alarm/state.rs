//! The state of one alarm, and its next one.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::condition::Level;
use super::name::AlarmName;

/// For how long a condition may be interrupted, at most, before its hold time begins anew.
const LONGEST_GAP: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AlarmState {
    Ok,
    /// The condition holds, and not for long enough yet.
    Pending {
        #[serde(with = "humantime_serde")]
        held: Duration,
        /// For how long it has not held since.
        #[serde(with = "humantime_serde")]
        calm: Duration,
    },
    Firing {
        /// For how long the condition has been over.
        #[serde(with = "humantime_serde")]
        calm: Duration,
    },
}

/// An alarm that is pending, fires, or has fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    pub name: AlarmName,
    /// Of which pool, program or budget, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    #[serde(flatten)]
    pub state: AlarmState,
    /// When it entered this state.
    pub since: Timestamp,
    /// What was found last, for operators.
    pub sentence: String,
    /// When it fired last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<Timestamp>,
    /// It has held the pools and stopped the batches, and has not taken the holds back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_stopped: bool,
}

impl Alarm {
    pub fn is_firing(&self) -> bool {
        matches!(self.state, AlarmState::Firing { .. })
    }
}

impl AlarmState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Pending { .. } => "pending",
            Self::Firing { .. } => "firing",
        }
    }

    /// After `passed`, in which the condition was at this level.
    pub(super) fn next(
        self,
        level: Level,
        hold: Duration,
        resolve_after: Duration,
        passed: Duration,
    ) -> Self {
        let zero = Duration::ZERO;
        match (self, level) {
            (Self::Ok, Level::Holds) if hold.is_zero() => Self::Firing { calm: zero },
            (Self::Ok, Level::Holds) => Self::Pending {
                held: zero,
                calm: zero,
            },
            (Self::Ok, _) => Self::Ok,
            (Self::Pending { held, .. }, Level::Holds) => match held.saturating_add(passed) {
                held if held >= hold => Self::Firing { calm: zero },
                held => Self::Pending { held, calm: zero },
            },
            (Self::Pending { held, calm }, _) => match calm.saturating_add(passed) {
                calm if calm >= hold.min(LONGEST_GAP) => Self::Ok,
                calm => Self::Pending { held, calm },
            },
            (Self::Firing { calm }, Level::Clear) => match calm.saturating_add(passed) {
                calm if calm >= resolve_after => Self::Ok,
                calm => Self::Firing { calm },
            },
            (Self::Firing { .. }, _) => Self::Firing { calm: zero },
        }
    }
}
