//! What the tests across services share: real servers, real programs, and ways to hurt them.

pub mod bench;
pub mod cases;
pub mod chaos;
pub mod harness;
pub mod soak;
