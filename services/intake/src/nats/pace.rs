//! How many bytes of requests over NATS are read in a second, from all clients together.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use spotreel_api::ApiError;

use crate::error;

/// How many bytes over NATS are read in a second, from all clients together. To read JSON costs about as much a byte whatever is
/// in it, so a flood costs no more of the processors than this.
pub struct BytePace {
    kib: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl BytePace {
    /// `largest` is what one message may have: it must always pass alone.
    pub fn new(mib_per_second: u32, largest: u32) -> Self {
        let at_least_one = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let per_second = mib_per_second.saturating_mul(1_024);
        let quota = Quota::per_second(at_least_one(per_second))
            .allow_burst(at_least_one(per_second.max(largest.div_ceil(1_024))));
        Self {
            kib: RateLimiter::direct(quota),
            clock: DefaultClock::default(),
        }
    }

    /// Before anything of the message is read. The smallest one counts as a KiB.
    pub fn check(&self, bytes: usize) -> Result<(), ApiError> {
        let kib = u32::try_from(bytes / 1_024 + 1).ok();
        let kib = kib.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        match self.kib.check_n(kib) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => {
                let message = "more arrives over NATS than is read: send this call again later";
                let after = not_yet.wait_time_from(self.clock.now());
                Err(error::rate_limited(message.into(), after))
            }
            Err(_) => Err(error::too_large("the message is too large".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use spotreel_api::ErrorCode;

    use super::*;

    #[test]
    fn what_arrives_is_paced_before_it_is_read() {
        let pace = BytePace::new(1, 9 << 20);
        // A message of the largest size passes, however low the rate is; and nothing more for some seconds.
        pace.check(8 << 20).unwrap();
        pace.check(1 << 19).unwrap();
        let refused = pace.check(1 << 20).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!(refused.retry_after_s.is_some());
    }
}
