//! The NATS API: requests that are answered (`verbs.rs`), submissions by publish (`inbox.rs`), and a rate for both (`pace.rs`).

pub mod inbox;
pub mod pace;
pub mod verbs;
