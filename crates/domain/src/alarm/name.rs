//! The alarms there are, and what a person does about each.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which alarm. The word is a token of the subject of its events.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AlarmName {
    CostPerDay,
    Budget,
    Interruptions,
    Backlog,
    NothingSucceeds,
    BatchBlocked,
    BreakerOpen,
    TasksFailed,
    LogRoom,
    EventsCopy,
    ServiceSilent,
}

impl AlarmName {
    pub const ALL: [Self; 11] = [
        Self::CostPerDay,
        Self::Budget,
        Self::Interruptions,
        Self::Backlog,
        Self::NothingSucceeds,
        Self::BatchBlocked,
        Self::BreakerOpen,
        Self::TasksFailed,
        Self::LogRoom,
        Self::EventsCopy,
        Self::ServiceSilent,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::CostPerDay => "cost_per_day",
            Self::Budget => "budget",
            Self::Interruptions => "interruptions",
            Self::Backlog => "backlog",
            Self::NothingSucceeds => "nothing_succeeds",
            Self::BatchBlocked => "batch_blocked",
            Self::BreakerOpen => "breaker_open",
            Self::TasksFailed => "tasks_failed",
            Self::LogRoom => "log_room",
            Self::EventsCopy => "events_copy",
            Self::ServiceSilent => "service_silent",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// For operators: the first thing to do. The table "Alarms" of docs/operations.md has a row for each alarm.
    pub fn what_to_do(self) -> &'static str {
        match self {
            Self::CostPerDay => {
                "look at `spotreel batches`; `spotreel hold --reason …` blocks launches, `spotreel stop` ends a batch"
            }
            Self::Budget => {
                "raise the budget, or `spotreel hold --reason …`; if the alarm has stopped the batches, `spotreel resume` allows launches again"
            }
            Self::Interruptions => {
                "nothing: fleet replaces the instances; if it goes on, allow more instance types or zones in pools.toml"
            }
            Self::Backlog => {
                "look at `spotreel why`: it names what the next batch waits for; a larger sizing.max or a higher cap renders faster"
            }
            Self::NothingSucceeds => {
                "look at `spotreel fleet` and at the workers' logs; `spotreel stop --now` ends the cost"
            }
            Self::BatchBlocked => "look at `spotreel why`: it says what blocks and what would help",
            Self::BreakerOpen => {
                "look at `spotreel batches ID` for the last instance's console; correct the image or template, then `spotreel resume`"
            }
            Self::TasksFailed => {
                "look at `spotreel list --state failed`; after the cause is gone, `spotreel retry`"
            }
            Self::LogRoom => {
                "let finished tasks go earlier (janitor.keep_finished), cancel tasks, or give the log more room"
            }
            Self::EventsCopy => {
                "run `spotreel provision`; if the copy is older than EVENTS, delete it first"
            }
            Self::ServiceSilent => {
                "start the program again and read its log; `nats micro ls` shows which programs answer"
            }
        }
    }
}

impl fmt::Display for AlarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_the_same_everywhere() {
        for name in AlarmName::ALL {
            let json = serde_json::to_value(name).unwrap();
            assert_eq!(json, name.as_str());
            assert_eq!(AlarmName::parse(name.as_str()), Some(name));
        }
        assert_eq!(AlarmName::parse("cost"), None);
    }
}
