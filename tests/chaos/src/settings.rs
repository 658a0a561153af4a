//! Settings of the system that a run hurts.

use std::time::Duration;

/// On every machine of the run.
pub const ENV: &str = "chaos";
/// Long enough for a stopped worker to lose its task, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(3);
/// Long enough to be interrupted in the middle of, short enough for many.
pub const STEP_MS: u32 = 200;
