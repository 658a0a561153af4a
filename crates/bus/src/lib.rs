//! NATS as spotreel uses it: every subject, stream and consumer, and the few ways in which they are touched.
//!
//! [`log`] is the only writer of the task log, [`batches`] of the batch log, and [`queue`] the only puller of work;
//! whoever goes around them loses the guarantees that the rest of the product is built on.

pub mod alarms;
mod append;
mod atomic;
pub mod batches;
pub mod bucket;
pub mod codec;
pub mod connect;
pub mod consume;
pub mod controls;
pub mod events;
pub mod jetstream;
pub mod keys;
pub mod kv;
pub mod leadership;
pub mod lease;
pub mod ledger;
pub mod log;
pub mod log_room;
pub mod names;
pub mod provision;
pub mod queue;
pub mod reply;
mod retry;
pub mod room;
pub mod service;
pub mod trace;
pub mod unreadable;
pub mod webhooks;

pub use alarms::AlarmRecord;
pub use batches::{BatchLog, RecordedBatch, Undecodable};
pub use bucket::Bucket;
pub use connect::{NatsConfig, Uptime, connect};
pub use consume::{Consumer, Handled};
pub use keys::{KeyRefused, KeyRing};
pub use leadership::Leadership;
pub use lease::Lease;
pub use log::{AppendError, Recorded, TaskLog};
pub use log_room::LogRoom;
pub use queue::{Delivery, Queue};
pub use reply::Reply;
pub use retry::retry;
pub use room::Room;
pub use service::{Service, ServiceError};
pub use webhooks::Webhooks;
