//! What operations answer, and the failures that they have in common.

use std::io;

use s3s::{S3Error, S3Response, S3Result, s3_error};

pub(super) type Answer<T> = S3Result<S3Response<T>>;

/// A failure of the disk: told as `InternalError`, with the reason in our log.
pub(super) fn internal(error: io::Error) -> S3Error {
    tracing::error!(%error, "object store directory failed");
    S3Error::with_source(s3s::S3ErrorCode::InternalError, error.into())
}

/// Refuses what would otherwise be dropped in silence.
pub(super) fn refuse_unsupported(asked: &[(&str, bool)]) -> S3Result {
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(s3_error!(NotImplemented, "{what} is not supported here")),
        None => Ok(()),
    }
}
