//! The time that events and keys are written with.

use jiff::Timestamp;
use spotreel_bootstrap::ambient;

/// The time in milliseconds, as the log keeps it: with more, the first answer and the same answer again would differ.
pub fn now() -> Timestamp {
    let now = ambient::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
