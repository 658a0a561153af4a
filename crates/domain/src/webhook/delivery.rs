//! One event on its way to one endpoint.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::attempt::{DeliveryAttempt, DeliveryVerdict};
use super::schedule::RetrySchedule;
use crate::time::later;

/// A line of the delivery log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// The event's id, which is `webhook-id` in every try.
    pub event: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(flatten)]
    pub state: DeliveryState,
    pub tries: u32,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    /// Of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of the last try.
    pub milliseconds: u64,
    /// Whether the tries are those of a recovery, which has a queue of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeliveryState {
    Delivered,
    /// It is tried again at this time.
    Waiting {
        next_at: Timestamp,
    },
    /// It is not tried again, unless an operator asks for it.
    Failed,
}

impl DeliveryRecord {
    /// The log after a try, which followed those of `before`.
    pub fn after(
        before: Option<&Self>,
        event: &str,
        kind: &str,
        attempt: &DeliveryAttempt,
        schedule: &RetrySchedule,
        now: Timestamp,
        random: u64,
    ) -> Self {
        let tries = before.map_or(0, |before| before.tries) + 1;
        let next = || schedule.after(tries, attempt.retry_after, random);
        let state = match attempt.verdict() {
            DeliveryVerdict::Delivered => DeliveryState::Delivered,
            // It stays due: an operator may enable the endpoint again.
            DeliveryVerdict::Failed | DeliveryVerdict::Throttled | DeliveryVerdict::Gone => {
                match next() {
                    Some(delay) => DeliveryState::Waiting {
                        next_at: later(now, delay),
                    },
                    None => DeliveryState::Failed,
                }
            }
        };
        Self {
            event: event.to_owned(),
            kind: kind.to_owned(),
            state,
            tries,
            first_at: before.map_or(now, |before| before.first_at),
            last_at: now,
            status: attempt.status,
            reason: attempt.reason(),
            milliseconds: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            again: before.is_some_and(|before| before.again),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(status: Option<u16>) -> DeliveryAttempt {
        DeliveryAttempt {
            status,
            problem: Some("connection refused".to_owned()),
            retry_after: None,
            took: Duration::from_millis(12),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    #[test]
    fn tries_are_counted_until_the_schedule_ends_and_success_ends_them() {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(10)]);
        let after = |before: Option<&DeliveryRecord>, status, now| {
            DeliveryRecord::after(before, "t1/7", "k", &attempt(status), &schedule, now, 500)
        };
        let first = after(None, None, at(100));
        assert_eq!(first.state, DeliveryState::Waiting { next_at: at(110) });
        assert_eq!(first.reason.as_deref(), Some("connection refused"));
        let failed = after(Some(&first), Some(500), at(110));
        assert_eq!((failed.state, failed.tries), (DeliveryState::Failed, 2));
        assert_eq!((failed.first_at, failed.last_at), (at(100), at(110)));
        let sent = after(Some(&first), Some(200), at(110));
        assert_eq!((sent.state, sent.reason), (DeliveryState::Delivered, None));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(10)]);
        let record = DeliveryRecord::after(None, "t1/7", "k", &attempt(None), &schedule, at(1), 0);
        let json = serde_json::to_value(&record).expect("it is JSON");
        assert_eq!(json["state"], "waiting");
        assert_eq!(
            serde_json::from_value::<DeliveryRecord>(json).expect("it is one"),
            record
        );
    }
}
