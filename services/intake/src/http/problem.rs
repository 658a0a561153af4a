//! Refusals as RFC 9457 problem details: field, rule and cure for people, a code for programs.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use spotreel_domain::api::{ApiError, ErrorCode};
use spotreel_domain::request::Violation;
use utoipa::ToSchema;

pub(super) const CONTENT_TYPE: &str = "application/problem+json";

/// A refused request.
#[derive(Debug)]
pub(crate) struct Problem(pub ApiError);

/// RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// `urn:spotreel:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// What is wrong, and what to do.
    detail: String,
    code: ErrorCode,
    /// Every broken rule, so that a request is mended in one go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<Violation>,
    /// Also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let ApiError {
            code,
            message,
            violations,
            retry_after_s,
        } = self.0;
        let status = code.status();
        let body = ProblemBody {
            kind: format!("urn:spotreel:problem:{}", code.as_str()),
            title: title(code),
            status,
            detail: message,
            code,
            violations,
            retry_after_s,
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if code == ErrorCode::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"spotreel\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if matches!(code, ErrorCode::Timeout | ErrorCode::TooLarge) {
            // The rest of the body is not waited for.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn title(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Invalid => "The request breaks a rule",
        ErrorCode::Conflict => "The id is taken",
        ErrorCode::NotFound => "Not found",
        ErrorCode::NotAllowed => "The task's state does not allow it",
        ErrorCode::QueueFull => "The queue is full",
        ErrorCode::RateLimited => "Too many requests",
        ErrorCode::TooLarge => "Too large",
        ErrorCode::Unauthorized => "A key is needed",
        ErrorCode::MethodNotAllowed => "Method not allowed",
        ErrorCode::UnsupportedMediaType => "Unsupported media type",
        ErrorCode::Timeout => "The request took too long",
        ErrorCode::Unavailable => "Unavailable",
        ErrorCode::Internal => "A fault in the program",
    }
}
