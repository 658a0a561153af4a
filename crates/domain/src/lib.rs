//! The words and the pure decisions of spotreel.
//!
//! Nothing here waits, reads a clock, draws a random number or knows a protocol: time and randomness are arguments.
//! Cargo enforces it: this crate has no tokio, no NATS, no AWS and no prost to call.

pub mod api;
pub mod api_key;
pub mod batch;
pub mod error;
pub mod fleet;
pub mod id;
pub mod ledger;
pub mod model;
pub mod money;
pub mod ops;
pub mod pool;
pub mod purchase;
pub mod quality;
pub mod quote;
pub mod render_time;
pub mod request;
pub mod task;
pub mod time;
pub mod trigger;
pub mod user_data;
pub mod whole;
pub mod workload;

pub use api_key::{ApiKey, Owner};
pub use error::chain;
pub use id::TaskId;
pub use model::{Lane, Model, Priority};
pub use money::Usd;
pub use quality::Quality;
pub use request::{TaskRequest, Violation};
pub use task::{Event, Task};
