//! What can go wrong, one enum per operation.

use spotreel_api::ApiError;
use spotreel_bus::connect::ConnectError;
use spotreel_bus::consume::HandlerError;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::ReadError;
use spotreel_bus::{AppendError, ServiceError};
use spotreel_domain::TaskId;
use spotreel_projection::ProjectionError;
use spotreel_s3::{DeleteError, ListError};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the NATS API can't be offered")]
    Offer(#[from] ServiceError),
    #[error("the search file can't be kept: set search.path, or search.enabled = false")]
    SearchFile(#[source] std::io::Error),
}

/// Why alarms could not be decided or told now. Nothing is lost: the next look goes on.
#[derive(Debug, thiserror::Error)]
pub enum AlarmError {
    #[error("the record of the alarms cannot be read")]
    Read(#[source] JetStreamError),
    #[error("the record of the alarms cannot be stored")]
    Store(#[source] JetStreamError),
    #[error(
        "an alarm's event cannot be stored: check that the stream EVENTS has the subject spotreel.alarm.>"
    )]
    Tell(#[source] JetStreamError),
    #[error("the batch log cannot be read")]
    Batches(#[source] ReadError),
    #[error("a hold cannot be read or written")]
    Hold(#[source] JetStreamError),
    #[error("{subject} was not answered")]
    Ask {
        subject: &'static str,
        source: async_nats::RequestError,
    },
    #[error("the answer to {subject} cannot be read")]
    Answer {
        subject: &'static str,
        source: serde_json::Error,
    },
    #[error("a budget's order was refused: {}", .0.message)]
    Refused(ApiError),
}

/// Why an event could not be handled now. It comes back, and is decided anew.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    #[error("the log could not be read")]
    Read(#[from] ReadError),
    #[error("message {sequence} of the log could not be deleted")]
    Delete {
        sequence: u64,
        source: JetStreamError,
    },
    #[error("the event could not be written")]
    Append(#[from] AppendError),
    #[error("info of consumer {consumer} could not be read")]
    Look {
        consumer: String,
        source: ConsumerInfoError,
    },
    #[error("size of the log could not be read")]
    Room(#[source] JetStreamError),
    #[error(
        "attempts of task {task} could not be stored in the stream LEDGER, and until they are, nothing is deleted from the \
         task log: check that the stream exists (`spotreel provision` makes it) and has room"
    )]
    Record {
        task: TaskId,
        source: JetStreamError,
    },
    #[error("presence record of worker {worker} could not be read")]
    Presence {
        worker: String,
        source: JetStreamError,
    },
    #[error("the objects of the task could not be listed")]
    List(#[from] ListError),
    #[error("an object could not be deleted")]
    Object(#[from] DeleteError),
}

impl HandlerError for HandleError {
    fn is_newer_version(&self) -> bool {
        match self {
            Self::Read(error) => error.is_newer_version(),
            _ => false,
        }
    }
}

/// Why the search file does not follow the logs. Everything is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("the log did not answer")]
    Log(#[from] JetStreamError),
    #[error("the log could not be read")]
    Read(#[from] ReadError),
    #[error("an event was written by a newer version: upgrade monitor")]
    Newer(#[source] ReadError),
    #[error(transparent)]
    File(#[from] ProjectionError),
}

/// Why the server did not say how things stand.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerInfoError {
    #[error(transparent)]
    Consumer(#[from] async_nats::jetstream::stream::ConsumerError),
    #[error(transparent)]
    Api(#[from] JetStreamError),
}
