//! What every engine must do, run against the command in `SPOTREEL_ENGINE` (default: the simulated engine with
//! faults). Tests of faults run only against an engine that says it has them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod failures;
mod packs;
mod renders;
mod stage;
