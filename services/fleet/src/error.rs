//! Errors at the start and in a reconcile pass, and refusals of requests.

use spotreel_api::{ApiError, ErrorCode};
use spotreel_bootstrap::ConfigError;
use spotreel_bus::batches::RecordedBatch;
use spotreel_bus::connect::ConnectError;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::{AppendError, ReadError};
use spotreel_bus::reply::refuse;
use spotreel_domain::batch::PoolName;
use spotreel_domain::fleet::tags::CURE;
use spotreel_domain::pool::PoolProblems;
use spotreel_ec2::CallError;
use spotreel_pool::marks::NotSwept;
use spotreel_pool::queue::CountError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the pools are refused")]
    Pools(#[from] ConfigError),
    #[error(transparent)]
    Rules(#[from] PoolProblems),
    #[error(
        "pool {pool} launches instances but has no launch template: set template.id or template.name, and template.version"
    )]
    NoTemplate { pool: PoolName },
    #[error("`tags`: {0}; {CURE}")]
    Tags(String),
    #[error(
        "pool {pool}: zone {zone} is not in ec2.region = {region}: change the zone or ec2.region"
    )]
    Zone {
        pool: PoolName,
        zone: String,
        region: String,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Why a round ended early. Nothing is launched then; what has to end is ended all the same.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error("instances could not be listed")]
    Listing(#[from] CallError),
    #[error("the batch log cannot be read")]
    Record(#[from] ReadError),
    #[error("writing to the batch log failed")]
    Append(#[source] Box<AppendError<RecordedBatch>>),
    #[error("orders cannot be read or written")]
    Controls(#[from] JetStreamError),
    #[error("there is no connection to NATS")]
    Disconnected,
}

/// Why something that a round would like to know is not known.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Bus(#[from] JetStreamError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error(transparent)]
    NotSwept(#[from] NotSwept),
    #[error("status records of other services cannot be read")]
    NoMarks,
    #[error("NATS does not answer in time")]
    Timeout,
}

pub fn invalid(message: impl Into<String>) -> ApiError {
    refuse(ErrorCode::Invalid, message)
}

pub fn not_found(message: impl Into<String>) -> ApiError {
    refuse(ErrorCode::NotFound, message)
}

pub fn not_allowed(message: impl Into<String>) -> ApiError {
    refuse(ErrorCode::NotAllowed, message)
}
