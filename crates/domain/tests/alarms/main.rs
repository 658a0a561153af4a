//! Alarms over scripted and random days, with monitors that crash at every point, share the board, and have clocks that jump.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod day;
mod properties;
mod world;
