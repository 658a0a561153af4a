//! Which events an endpoint wants.

use serde::{Deserialize, Serialize};

use crate::alarm::NoticeState;
use crate::batch::Status;
use crate::task::Event;

/// More than there are events.
pub const MAX_FILTERS: usize = 32;
/// What notifier says of endpoints.
const WEBHOOK_EVENTS: [&str; 2] = ["failing", "disabled"];

/// `*`, `task.*`, `task.succeeded`, `batch.*`, `batch.settled`, `alarm.*`, `webhook.*` and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventFilter(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no event: use *, task.*, batch.*, alarm.*, webhook.*, or one event such as task.succeeded, batch.settled, alarm.firing or webhook.failing"
)]
pub struct BadFilter(String);

impl EventFilter {
    pub fn parse(text: &str) -> Result<Self, BadFilter> {
        let known = match text.split_once('.') {
            None => text == "*",
            Some(("task" | "batch" | "alarm" | "webhook", "*")) => true,
            Some(("task", name)) => {
                name == "rejected" || Event::ALL.iter().any(|event| event.as_str() == name)
            }
            Some(("batch", name)) => Status::NAMES.contains(&name),
            Some(("webhook", name)) => WEBHOOK_EVENTS.contains(&name),
            Some(("alarm", name)) => NoticeState::ALL.iter().any(|state| state.as_str() == name),
            Some(_) => false,
        };
        match known {
            true => Ok(Self(text.to_owned())),
            false => Err(BadFilter(text.chars().take(64).collect())),
        }
    }

    /// Topic and event, both possibly `*`.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('.').unwrap_or(("*", "*"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EventFilter {
    type Error = BadFilter;

    fn try_from(text: String) -> Result<Self, BadFilter> {
        Self::parse(&text)
    }
}

impl From<EventFilter> for String {
    fn from(filter: EventFilter) -> Self {
        filter.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_events_and_whole_topics_are_filters() {
        for text in [
            "*",
            "task.*",
            "task.succeeded",
            "task.rejected",
            "batch.settled",
            "alarm.firing",
            "webhook.disabled",
        ] {
            assert!(EventFilter::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "task",
            "task.",
            "task.done",
            "batch.>",
            "alarm.a.b",
            "alarm.batch_blocked",
            "*.*",
            "webhook.x",
            "worker.*",
        ] {
            assert!(EventFilter::parse(text).is_err(), "{text}");
        }
    }
}
