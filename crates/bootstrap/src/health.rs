//! What a program says about itself: alive, and ready for work or not, with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

/// The named checks of one program. Clones share the same checks; whoever holds one may set its own.
///
/// A check says whether the program can do its work *now*: `nats` is down while the connection is, `engine` until the
/// model is loaded. `/readyz` answers 200 only when every check holds.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<String, Result<(), String>>>>,
}

/// The state of all checks at one moment: the body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub checks: BTreeMap<String, Check>,
}

/// One check in a [`Readiness`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Health {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a check that doesn't hold until somebody says so; keeps what is already known about it.
    pub fn expect(&self, name: &str) {
        self.lock()
            .entry(name.to_owned())
            .or_insert_with(|| Err("not checked yet".to_owned()));
    }

    /// Records a check: `Ok(())`, or `Err` with the reason that a person reads in `/readyz`.
    pub fn set<E: ToString>(&self, name: &str, state: Result<(), E>) {
        let state = state.map_err(|reason| reason.to_string());
        let before = self.lock().insert(name.to_owned(), state.clone());
        if before.as_ref() != Some(&state) {
            tracing::debug!(check = name, ?state, "health changed");
        }
    }

    /// Takes a check away: what it watched is no longer needed.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let checks: BTreeMap<_, _> = self
            .lock()
            .iter()
            .map(|(name, state)| {
                let check = Check {
                    ok: state.is_ok(),
                    reason: state.as_ref().err().cloned(),
                };
                (name.clone(), check)
            })
            .collect();
        Readiness {
            ready: checks.values().all(|check| check.ok),
            checks,
        }
    }

    /// A panic elsewhere leaves the map whole: every write is one insert.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.checks.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_check_holds() {
        let health = Health::new();
        assert!(health.readiness().ready);

        health.expect("nats");
        health.set("engine", Ok::<(), &str>(()));
        assert!(!health.readiness().ready);

        health.set("nats", Ok::<(), &str>(()));
        health.expect("nats");
        assert!(health.readiness().ready, "expect keeps what is known");

        health.set("nats", Err("connection refused"));
        let seen = health.readiness();
        assert!(!seen.ready);
        assert_eq!(
            seen.checks["nats"].reason.as_deref(),
            Some("connection refused")
        );
        assert!(seen.checks["engine"].ok);

        health.forget("nats");
        assert!(health.readiness().ready);
    }
}
