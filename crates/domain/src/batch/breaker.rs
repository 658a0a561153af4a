//! State of the circuit breaker: instances that ended before they served.

use jiff::Timestamp;

use crate::fleet::cloud::Place;

/// Keeps a batch from buying instance after instance if something ends all of them. An instance that serves resets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Instances in a row that ended before they served.
    pub failures: u32,
    /// Pauses in a row.
    pub pauses: u32,
    /// Launches are paused until then.
    pub until: Option<Timestamp>,
    /// The newest of those instances.
    pub last: Option<FailedStart>,
}

/// An instance that ended before it served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStart {
    pub instance: String,
    pub place: Place,
    /// EC2's reason, or ours if EC2 gives none.
    pub reason: String,
    /// The end of its console output; empty: it cannot be read. Absent: not read yet.
    pub console: Option<String>,
}
