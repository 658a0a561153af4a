//! State of the circuit breaker: instances that ended before they served.

use jiff::Timestamp;

use crate::fleet::cloud::Place;

/// Stops a batch from buying one machine after the other for a cause that ends all of them. A machine that serves makes
/// it new again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Machines in a row that ended before they served.
    pub failures: u32,
    /// Pauses in a row that they have led to.
    pub pauses: u32,
    /// Nothing is launched before.
    pub until: Option<Timestamp>,
    /// The newest of those machines.
    pub last: Option<FailedStart>,
}

/// A machine that ended before it served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStart {
    pub instance: String,
    pub place: Place,
    /// In EC2's words, or in ours where EC2 says nothing.
    pub reason: String,
    /// The end of its console output; empty: there is none that can be read. Absent: not asked for yet.
    pub console: Option<String>,
}
