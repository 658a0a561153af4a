//! What fails the check of a consumer, and for how long.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Time without a redelivery after which an event must have been handled, by a newer program or by a later try.
pub(super) const HELD_AT_MOST: Duration = Duration::from_secs(20);

pub(super) struct Troubles {
    /// Failures in a row of one event from which on the check fails.
    most: u32,
    /// Why the check fails because of the last event that was handed back, and until when.
    blocked: Mutex<Option<(String, Instant)>>,
    /// The event whose failures are counted: one is enough to see that events keep failing.
    failing: Mutex<Option<Failing>>,
}

struct Failing {
    sequence: u64,
    /// In a row.
    failures: u32,
    /// Without another failure until then, another program has handled it.
    until: Instant,
}

impl Troubles {
    pub fn new(most: u32) -> Self {
        Self {
            most,
            blocked: Mutex::new(None),
            failing: Mutex::new(None),
        }
    }

    /// The failures in a row of this event, if it is the one whose failures are counted.
    pub fn count(&self, sequence: u64, at_most: Duration) -> Option<u32> {
        let (mut failing, now) = (self.failing.lock(), Instant::now());
        let failures = match &*failing {
            Some(known) if known.sequence == sequence => known.failures.saturating_add(1),
            Some(known) if now < known.until => return None,
            _ => 1,
        };
        *failing = Some(Failing {
            sequence,
            failures,
            until: now + at_most,
        });
        Some(failures)
    }

    /// The check no longer fails because of an event that is handled now.
    pub fn recover(&self, sequence: u64) {
        let mut failing = self.failing.lock();
        if failing
            .take_if(|known| known.sequence == sequence)
            .is_some_and(|known| known.failures >= self.most)
        {
            *self.blocked.lock() = None;
        }
    }

    pub fn block(&self, reason: String, at_most: Duration) {
        *self.blocked.lock() = Some((reason, Instant::now() + at_most));
    }

    pub fn health(&self) -> Result<(), String> {
        match &*self.blocked.lock() {
            Some((reason, until)) if Instant::now() < *until => Err(reason.clone()),
            _ => Ok(()),
        }
    }
}
