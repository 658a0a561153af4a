//! How full the task log is.

use async_nats::Client;
use serde::Deserialize;

use crate::jetstream::{self, JetStreamError};
use crate::names::TASKS;

/// From here on, in percent of the log's size, only the ends of tasks are written: no attempt is started, and no task is
/// queued again. Intake refuses new tasks long before; what is left is thousands of ends, and a worker has two tasks at most.
pub const ENDS_ONLY_PERCENT: u64 = 95;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRoom {
    pub bytes: u64,
    /// 0: there is no limit.
    pub max_bytes: u64,
}

#[derive(Deserialize)]
struct LogInfo {
    config: LogConfig,
    state: LogState,
}

#[derive(Deserialize)]
struct LogConfig {
    max_bytes: i64,
}

#[derive(Deserialize)]
struct LogState {
    bytes: u64,
}

impl LogRoom {
    /// Asks the server.
    pub async fn of_log(client: &Client) -> Result<Self, JetStreamError> {
        let info: LogInfo = jetstream::stream_info(client, TASKS).await?;
        Ok(Self {
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).unwrap_or_default(),
        })
    }

    /// Whether at least this percentage of it is used.
    pub fn is_used_to(self, percent: u64) -> bool {
        self.max_bytes > 0 && self.bytes >= self.max_bytes / 100 * percent
    }

    pub fn used_percent(self) -> u64 {
        let hundredfold = self.bytes.saturating_mul(100);
        hundredfold.checked_div(self.max_bytes).unwrap_or_default()
    }
}
