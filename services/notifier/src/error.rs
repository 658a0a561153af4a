//! What can go wrong, one enum per operation.

use spotreel_bus::connect::ConnectError;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::ReadError;
use spotreel_s3::PresignError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Webhooks(#[from] spotreel_webhook::BuildError),
    #[error("the orders of webhooks can't be offered")]
    Offer(#[from] spotreel_bus::ServiceError),
}

/// Why an event was not published by this try. The next one may do it.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("the event was not stored in EVENTS")]
    Store(#[from] JetStreamError),
    #[error("the log could not be read")]
    Read(#[from] ReadError),
    #[error("the link to {key} could not be signed")]
    Link { key: String, source: PresignError },
    #[error("the event could not be written as JSON")]
    Json(#[from] serde_json::Error),
}
