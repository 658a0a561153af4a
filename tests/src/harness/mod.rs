//! A whole spotreel on free ports, every piece of which can be killed, frozen and started again.
//!
//! Nothing is left behind: every child leads a process group of its own, which dies with its handle, or with this
//! process, however that ends.

pub mod api;
pub mod cloud;
pub mod cluster;
pub mod fleet;
pub mod process;
pub mod program;
pub mod system;
pub mod tasks;

pub use api::Api;
pub use cloud::CloudProgram;
pub use cluster::NatsCluster;
pub use fleet::{FleetOptions, FleetStage};
pub use program::Program;
pub use spotreel_test_kit::{self as nats, Nats, Process, always, eventually, free_port, root};
pub use system::{System, SystemOptions};
