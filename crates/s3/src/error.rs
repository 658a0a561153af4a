//! A request that failed, whatever the operation.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// What the store, or the way to it, answered after the SDK's own tries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} failed: {}", code.as_deref().unwrap_or(message))]
pub struct RequestError {
    pub operation: &'static str,
    /// S3's own code (`AccessDenied`); none if there was no answer, or one without a body.
    pub code: Option<String>,
    pub status: Option<u16>,
    /// The whole chain, for the log.
    pub message: String,
    retryable: bool,
}

impl RequestError {
    pub(crate) fn new<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error
            .as_service_error()
            .and_then(ProvideErrorMetadata::code);
        let code = code.map(str::to_owned);
        let status = error
            .raw_response()
            .map(|response| response.status().as_u16());
        let retryable = match &error {
            SdkError::ConstructionFailure(_) => false,
            SdkError::ServiceError(_) => status.is_none_or(|status| {
                status >= 500 || status == 408 || status == 429 || code_may_pass(code.as_deref())
            }),
            // Timeouts, broken connections, torn answers.
            _ => true,
        };
        Self {
            operation,
            code,
            status,
            message: DisplayErrorContext(error).to_string(),
            retryable,
        }
    }

    /// A body that broke off: the SDK has no tries for those.
    pub(crate) fn body(operation: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            retryable: true,
            ..Self::build(operation, error)
        }
    }

    /// A request that could not even be put together.
    pub(crate) fn build(
        operation: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self {
            operation,
            code: None,
            status: None,
            message: DisplayErrorContext(error).to_string(),
            retryable: false,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The condition `If-None-Match: *` did not hold: the key is taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.status == Some(412)
    }

    /// Another conditional write to this key was under way; it may win or fail.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is("ConditionalRequestConflict") || self.status == Some(409)
    }

    /// Nothing under this key. A HEAD has no body, hence no code.
    pub(crate) fn is_missing(&self) -> bool {
        self.is("NoSuchKey")
            || self.is("NotFound")
            || (self.code.is_none() && self.status == Some(404))
    }
}

/// Codes that S3 sends with a 4xx though only time is needed.
fn code_may_pass(code: Option<&str>) -> bool {
    let passing = [
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "SlowDown",
    ];
    code.is_some_and(|code| passing.contains(&code))
}
