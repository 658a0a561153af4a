//! The one place that reads the clock and the system's randomness.
//!
//! Whatever decides takes the time and its random numbers as arguments, so that a test, a replay and production give
//! the same answer to the same question. `clippy.toml` bans the readers everywhere else.

use jiff::Timestamp;
use uuid::Uuid;

/// The wall clock, now.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// An id that sorts by the time it was made: for tasks, batches and whatever is listed in order.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// An id that says nothing: for tokens, where the time of making is nobody's business.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]
pub fn uuid_v4() -> Uuid {
    Uuid::new_v4()
}

/// A seed for a pseudo-random generator, or a number to jitter a delay with.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place the lint points to"
)]
pub fn random_u64() -> u64 {
    rand::random()
}
