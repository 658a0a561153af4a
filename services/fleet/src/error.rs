//! Why fleet does not start, why a round did not come to its end, and the refusals that its verbs give.

use spotreel_bootstrap::ConfigError;
use spotreel_bus::batches::RecordedBatch;
use spotreel_bus::connect::ConnectError;
use spotreel_bus::jetstream::ApiError as BusError;
use spotreel_bus::log::{AppendError, ReadError};
use spotreel_bus::reply::refuse;
use spotreel_domain::api::{ApiError, ErrorCode};
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
        "pool {pool} buys machines and has no launch template: set template.id or template.name, and template.version"
    )]
    NoTemplate { pool: PoolName },
    #[error("`tags`: {0}; {CURE}")]
    Tags(String),
    #[error(
        "pool {pool} names the zone {zone}, which is not in {region}: set ec2.region, or the zone"
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
    #[error("the cloud cannot be listed")]
    Listing(#[from] CallError),
    #[error("the batch log cannot be read")]
    Record(#[from] ReadError),
    #[error("the batch log does not take an event")]
    Append(#[source] Box<AppendError<RecordedBatch>>),
    #[error("orders cannot be read or written")]
    Controls(#[from] BusError),
    #[error("there is no connection to NATS")]
    Disconnected,
}

/// Why something that a round would like to know is not known.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Count(#[from] CountError),
    #[error(transparent)]
    NotSwept(#[from] NotSwept),
    #[error("the marks of the other services cannot be read")]
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
