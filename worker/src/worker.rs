//! What the parts of a running worker share.

use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::{TaskLog, Uptime};
use spotreel_domain::{Event, Task};
use spotreel_packs::Remote;
use spotreel_s3::Store;

use crate::config::WorkerConfig;
use crate::machine::leave::Leave;
use crate::machine::wellness::Wellness;
use crate::machine::{idle, presence};
use crate::packs::PackCache;
use crate::task::interruption;

/// What every part of a running worker needs.
pub struct Worker {
    pub name: String,
    pub instance: String,
    /// The machine is a cloud's, and costs money.
    pub on_cloud: bool,
    pub config: WorkerConfig,
    pub log: TaskLog,
    /// Of the connection to NATS.
    pub uptime: Uptime,
    pub wellness: Wellness,
    pub store: Store,
    /// None: the engine brings its own packs.
    pub packs: Option<PackCache>,
    /// Where LoRAs lie.
    pub loras: Remote,
    pub presence: presence::PresenceBoard,
    pub leave: Leave,
    pub stay: idle::Stay,
    pub measured: interruption::Measured,
    pub scratch: std::path::PathBuf,
}

impl Worker {
    pub fn append(&self, step: (Event, Task), expected: u64) -> Append {
        Append::new(step, expected, ambient::uuid_v7())
    }
}
