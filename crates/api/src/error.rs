//! Refusals: [`ErrorReply`] over NATS, [`ProblemBody`] over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One broken rule: where, which, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Violation {
    pub field: String,
    pub rule: String,
    pub message: String,
}

impl Violation {
    pub fn new(field: &str, rule: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
            message: message.into(),
        }
    }
}

/// Every refusal: a code for programs, a message that says what to do for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub violations: Vec<Violation>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReply {
    pub error: ApiError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request breaks a rule: mend it.
    Invalid,
    /// The id is taken by a task of other content.
    Conflict,
    NotFound,
    /// The task's state does not allow it.
    NotAllowed,
    QueueFull,
    RateLimited,
    TooLarge,
    /// No key, or one that is not known or not good any more.
    Unauthorized,
    MethodNotAllowed,
    UnsupportedMediaType,
    /// The request did not arrive within its time.
    Timeout,
    /// Something behind the door is down: the same request is safe to send again.
    Unavailable,
    /// A fault in the program.
    Internal,
}

impl ErrorCode {
    pub const ALL: [Self; 13] = [
        Self::Invalid,
        Self::Conflict,
        Self::NotFound,
        Self::NotAllowed,
        Self::QueueFull,
        Self::RateLimited,
        Self::TooLarge,
        Self::Unauthorized,
        Self::MethodNotAllowed,
        Self::UnsupportedMediaType,
        Self::Timeout,
        Self::Unavailable,
        Self::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::NotAllowed => "not_allowed",
            Self::QueueFull => "queue_full",
            Self::RateLimited => "rate_limited",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The nearest HTTP status; NATS services carry it in `Nats-Service-Error-Code`.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthorized => 401,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::Conflict | Self::NotAllowed => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::QueueFull | Self::Unavailable => 503,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Invalid => "The request breaks a rule",
            Self::Conflict => "The id is taken",
            Self::NotFound => "Not found",
            Self::NotAllowed => "The task's state does not allow it",
            Self::QueueFull => "The queue is full",
            Self::RateLimited => "Too many requests",
            Self::TooLarge => "Too large",
            Self::Unauthorized => "A key is needed",
            Self::MethodNotAllowed => "Method not allowed",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::Timeout => "The request took too long",
            Self::Unavailable => "Unavailable",
            Self::Internal => "A fault in the program",
        }
    }
}

/// RFC 9457.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:spotreel:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: &'static str,
    pub status: u16,
    /// What is wrong, and what to do.
    pub detail: String,
    pub code: ErrorCode,
    /// Every broken rule, so that a request is mended in one go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// Also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl From<ApiError> for ProblemBody {
    fn from(error: ApiError) -> Self {
        let code = error.code;
        Self {
            kind: format!("urn:spotreel:problem:{}", code.as_str()),
            title: code.title(),
            status: code.status(),
            detail: error.message,
            code,
            violations: error.violations,
            retry_after_s: error.retry_after_s,
        }
    }
}
