//! What can go wrong, one enum per operation.

use spotreel_bus::connect::ConnectError;
use spotreel_bus::jetstream::ApiError;
use spotreel_bus::log::ReadError;
use spotreel_bus::{AppendError, ServiceError};
use spotreel_domain::TaskId;
use spotreel_s3::{DeleteError, ListError};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the NATS API can't be offered")]
    Offer(#[from] ServiceError),
}

/// Why an event could not be handled now. It comes back, and is decided anew.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    #[error("the log could not be read")]
    Read(#[from] ReadError),
    #[error("message {sequence} of the log could not be deleted")]
    Delete { sequence: u64, source: ApiError },
    #[error("the event could not be written")]
    Append(#[from] AppendError),
    #[error("info of consumer {consumer} could not be read")]
    Look {
        consumer: String,
        source: ConsumerInfoError,
    },
    #[error("size of the log could not be read")]
    Room(#[source] ApiError),
    #[error("attempts of task {task} could not be stored in the ledger")]
    Record { task: TaskId, source: ApiError },
    #[error("presence record of worker {worker} could not be read")]
    Presence { worker: String, source: ApiError },
    #[error("the objects of the task could not be listed")]
    List(#[from] ListError),
    #[error("an object could not be deleted")]
    Object(#[from] DeleteError),
}

impl HandleError {
    /// Whether an event that a newer version wrote is in the way.
    pub fn is_newer_version(&self) -> bool {
        match self {
            Self::Read(error) => error.is_newer_version(),
            _ => false,
        }
    }
}

/// Why the server did not say how things stand.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerInfoError {
    #[error(transparent)]
    Consumer(#[from] async_nats::jetstream::stream::ConsumerError),
    #[error(transparent)]
    Api(#[from] ApiError),
}
