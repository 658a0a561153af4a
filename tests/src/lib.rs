//! What the tests across services share: real servers, real programs, and ways to hurt them.

pub mod cases;
pub mod harness;
mod verdict;

pub use verdict::Verdict;
