//! What can go wrong, one enum per operation.

use spotreel_bootstrap::ConfigError;
use spotreel_bus::RecordedBatch;
use spotreel_bus::jetstream::ApiError;
use spotreel_bus::log::{AppendError, ReadError};
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
}

/// Why the truth could not be read. Nothing is decided then.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Count(CountError),
    #[error("the queue's oldest task could not be read")]
    Oldest(#[source] ReadError),
    #[error("what workers say could not be read")]
    Workers(#[source] ApiError),
    #[error("the marks of the other services could not be read")]
    Marks(#[source] ApiError),
    #[error("what operators have ordered could not be read")]
    Controls(#[source] ApiError),
    #[error("the batch log could not be read")]
    Batches(#[source] ReadError),
    #[error("how full the task log is could not be read")]
    Room(#[source] ApiError),
}

/// Why a decision could not be carried out. The next look decides anew.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("the batch could not be written down")]
    Append(#[from] AppendError<RecordedBatch>),
    #[error(transparent)]
    Active(#[from] StillActive),
    #[error("an order that was carried out could not be removed")]
    Order(#[source] ApiError),
    #[error("the mode could not be written down")]
    Mode(#[source] ApiError),
}
