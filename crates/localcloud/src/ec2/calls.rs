//! What was called, for whoever wants to measure or to count.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The newest calls; older ones are forgotten.
const KEPT: usize = 10_000;

/// One call as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    pub action: String,
    /// Microseconds since 1970, real time, read before the body was.
    pub arrived_us: u64,
    pub took_us: u64,
    /// The code of the refusal; `reset` if the connection was cut.
    pub error: Option<String>,
    pub client_token: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<VecDeque<Call>>);

impl Calls {
    pub fn add(&self, call: Call) {
        let mut calls = self.lock();
        if calls.len() == KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    pub fn since(&self, since_us: u64) -> Vec<Call> {
        let calls = self.lock();
        let late = calls.iter().filter(|call| call.arrived_us >= since_us);
        late.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
