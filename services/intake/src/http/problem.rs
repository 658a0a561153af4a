//! Refusals as RFC 9457 problem details: field, rule and cure for people, a code for programs.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use spotreel_api::{ApiError, ErrorCode, ProblemBody};

pub(super) const CONTENT_TYPE: &str = "application/problem+json";

/// A refused request.
#[derive(Debug)]
pub(crate) struct Problem(pub ApiError);

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody::from(self.0);
        let (code, retry_after_s) = (body.code, body.retry_after_s);
        let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
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
