//! Failing checks: shown in `/readyz` and as a metric, and logged when they start to fail and when they recover.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use spotreel_bootstrap::Health;

use crate::metrics;

pub struct Conditions {
    health: Health,
    failing: Mutex<BTreeMap<String, bool>>,
}

impl Conditions {
    pub fn new(health: &Health) -> Self {
        Self {
            health: health.clone(),
            failing: Mutex::default(),
        }
    }

    pub fn set(&self, check: &str, state: Result<(), String>) {
        let fails = state.is_err();
        let before = {
            let mut failing = self.failing.lock();
            failing.insert(check.to_owned(), fails)
        };
        match &state {
            Err(reason) if before != Some(true) => tracing::warn!(check, reason, "check failing"),
            Ok(()) if before == Some(true) => tracing::info!(check, "check recovered"),
            _ => {}
        }
        metrics::condition(check, fails);
        self.health.set(check, state);
    }

    /// What a check found is over; one that does not fail is left as it is.
    pub fn recover(&self, check: &str) {
        let fails = {
            let failing = self.failing.lock();
            failing.get(check) == Some(&true)
        };
        if fails {
            self.set(check, Ok(()));
        }
    }

    /// Names a check that is not known yet.
    pub fn expect(&self, check: &str) {
        self.health.expect(check);
    }
}
