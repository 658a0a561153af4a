//! The words and the pure decisions of spotreel.
//!
//! Nothing here waits, reads a clock, draws a random number or knows a protocol: time and randomness are arguments.
//! Cargo enforces it: this crate has no tokio, no NATS, no AWS and no prost to call. What clients send and are answered is
//! in `spotreel-api`.

pub mod alarm;
pub mod allocation;
pub mod api_key;
pub mod batch;
pub mod error;
pub mod fleet;
pub mod id;
pub mod model;
pub mod money;
pub mod pool;
pub mod purchase;
pub mod quality;
pub mod render_time;
pub mod spend;
pub mod task;
pub mod time;
pub mod trigger;
pub mod webhook;
pub mod workload;

pub use api_key::{ApiKey, Owner};
pub use error::chain;
pub use id::TaskId;
pub use model::{Lane, Model, Priority};
pub use money::Usd;
pub use quality::Quality;
pub use task::{Event, Task};
