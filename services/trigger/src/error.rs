//! What can go wrong, one enum per operation.

use spotreel_bootstrap::ConfigError;
use spotreel_bus::connect::ConnectError;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::{AppendError, ReadError};
use spotreel_bus::{RecordedBatch, ServiceError};
use spotreel_domain::batch::{PoolName, StillActive};
use spotreel_domain::pool::PoolProblems;
use spotreel_pool::queue::CountError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the pools are refused")]
    PoolsFile(#[from] ConfigError),
    #[error(transparent)]
    Pools(#[from] PoolProblems),
    #[error(
        "`pool.{pool}.subnets`: zone {zone} is not in ec2.region = {region:?}; name zones of that region, or set ec2.region"
    )]
    Zone {
        pool: PoolName,
        zone: String,
        region: String,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Requests(#[from] ServiceError),
}

/// Why the truth could not be read. Nothing is decided then.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Count(CountError),
    #[error("the queue's oldest task could not be read")]
    Oldest(#[source] ReadError),
    #[error("presence records of workers could not be read")]
    Workers(#[source] JetStreamError),
    #[error("status records of other services could not be read")]
    Marks(#[source] JetStreamError),
    #[error("orders could not be read")]
    Controls(#[source] JetStreamError),
    #[error("the batch log could not be read")]
    Batches(#[source] ReadError),
    #[error("size of the task log could not be read")]
    Room(#[source] JetStreamError),
}

/// Why a decision could not be carried out. The next look decides anew.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("the batch could not be written to the log")]
    Append(#[from] AppendError<RecordedBatch>),
    #[error(transparent)]
    Active(#[from] StillActive),
    #[error("a completed order could not be deleted")]
    Order(#[source] JetStreamError),
    #[error("the mode could not be stored")]
    Mode(#[source] JetStreamError),
}
