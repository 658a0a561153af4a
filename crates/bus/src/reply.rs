//! Answers to requests: each is one message, whatever it has to say.

use std::panic::AssertUnwindSafe;

use async_nats::HeaderMap;
use futures::FutureExt;
use serde::Serialize;
use spotreel_api::{ApiError, ErrorCode, ErrorReply};

/// Longest text in a header, in bytes.
const MAX_LINE: usize = 400;
/// What headers take at most; they count as a part of the message.
pub const HEADERS: usize = 1_024;
/// When to come back after the NATS server did not answer: a restart takes a few seconds.
const UNAVAILABLE_RETRY_S: u64 = 2;

/// An answer, ready to be sent.
pub struct Reply {
    pub body: Vec<u8>,
    pub headers: HeaderMap,
}

impl Reply {
    /// An answer that is larger than a message of `max_payload` bytes is replaced: without one, whoever asked would wait
    /// until his time is up, and ask again.
    pub fn new(answered: Result<Vec<u8>, ApiError>, max_payload: usize) -> Self {
        let most = max_payload.saturating_sub(HEADERS);
        let reply = match answered {
            Ok(body) => Self {
                body,
                headers: HeaderMap::new(),
            },
            Err(error) => Self::refusal(error),
        };
        if reply.body.len() <= most {
            return reply;
        }
        let message = format!(
            "the answer has {} bytes and a message holds {most}: what was asked is done, ask for less at a time to read it",
            reply.body.len()
        );
        tracing::warn!(
            bytes = reply.body.len(),
            most,
            "answer is larger than a NATS message; sent too_large instead"
        );
        Self::refusal(refuse(ErrorCode::TooLarge, message))
    }

    fn refusal(error: ApiError) -> Self {
        let mut headers = HeaderMap::new();
        let status = error.code.status().to_string();
        headers.insert("Nats-Service-Error-Code", status.as_str());
        // A header is one line.
        let mut line = error.message.replace(|c: char| c.is_control(), " ");
        line.truncate(line.floor_char_boundary(MAX_LINE));
        headers.insert("Nats-Service-Error", line.as_str());
        let body = serde_json::to_vec(&ErrorReply { error });
        Self {
            body: body.expect("a refusal has string keys only"),
            headers,
        }
    }
}

/// The body of an answer.
pub fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers have string keys only, and no map that could fail")
}

pub fn refuse(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError {
        code,
        message: message.into(),
        violations: Vec::new(),
        retry_after_s: None,
    }
}

/// `what` cannot be reached because of `error`, which is logged here.
pub fn unavailable(what: &str, error: &dyn std::error::Error) -> ApiError {
    tracing::warn!(error = %spotreel_domain::chain(error), what, "handling a request failed");
    let message = format!("{what} cannot be reached now: send the same request again");
    ApiError {
        retry_after_s: Some(UNAVAILABLE_RETRY_S),
        ..refuse(ErrorCode::Unavailable, message)
    }
}

/// What the handler answers. One that panics is answered for: whoever asked would wait until his time is up, and ask again.
pub async fn guarded<T>(handler: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let answered = AssertUnwindSafe(handler).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        tracing::error!("request handler panicked; see the lines above");
        let message = "the program has a fault, which its log describes: report it";
        Err(refuse(ErrorCode::Internal, message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let handler = async { panic!("as a handler with a fault does") };
        let answered = guarded::<Vec<u8>>(handler).await;
        let reply = Reply::new(answered, 4_096);
        let ErrorReply { error } = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(error.code, ErrorCode::Internal);
        let status = reply.headers.get("Nats-Service-Error-Code").unwrap();
        assert_eq!(status.as_str(), "500");
    }

    #[test]
    fn an_answer_larger_than_a_message_is_replaced_by_one_that_fits() {
        let max_payload = 4_096;
        let small = Reply::new(Ok(vec![b' '; 3_000]), max_payload);
        assert_eq!(small.body.len(), 3_000);
        let error = refuse(ErrorCode::Invalid, "\n".repeat(10_000));
        for answered in [Ok(vec![b' '; 4_000]), Err(error)] {
            let replaced = Reply::new(answered, max_payload);
            assert!(replaced.body.len() <= max_payload - HEADERS);
            let ErrorReply { error } = serde_json::from_slice(&replaced.body).unwrap();
            assert_eq!(error.code, ErrorCode::TooLarge);
            assert_eq!(
                replaced
                    .headers
                    .get("Nats-Service-Error-Code")
                    .unwrap()
                    .as_str(),
                "413"
            );
        }
    }
}
