//! What was called, for whoever wants to measure or to count.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use parking_lot::{Mutex, MutexGuard};
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

/// A request as it came, and what was answered if it makes a template: launches name that by id and version.
#[derive(Serialize)]
pub(crate) struct Recorded<'a> {
    pub action: &'a str,
    pub body: &'a str,
    pub answer: Option<&'a str>,
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    newest: Mutex<VecDeque<Call>>,
    record: Option<Mutex<File>>,
}

impl Calls {
    /// Also writes each request to the end of this file.
    pub fn recording(file: Option<&Path>) -> io::Result<Self> {
        let open = |file| File::options().create(true).append(true).open(file);
        Ok(Self {
            newest: Mutex::default(),
            record: file.map(open).transpose()?.map(Mutex::new),
        })
    }

    pub fn record(&self, request: &Recorded<'_>) {
        let Some(file) = &self.record else {
            return;
        };
        let mut file = file.lock();
        let line = serde_json::to_string(request).map_err(io::Error::other);
        if let Err(error) = line.and_then(|line| writeln!(file, "{line}")) {
            tracing::error!(%error, "request could not be recorded");
        }
    }

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
        self.newest.lock()
    }
}
