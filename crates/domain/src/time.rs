//! Arithmetic with times that cannot fail: no span is below zero, and no time is past the last one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long it is from `since` to `now`; zero if `since` lies ahead, as after a clock went back.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

pub fn later(at: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| at.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}
