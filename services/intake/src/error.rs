//! Why intake did not start, and the refusals that it gives: a code for programs, a message that says what to do.

use std::net::SocketAddr;
use std::time::Duration;

use spotreel_api::{ApiError, ErrorCode, Violation};
use spotreel_bus::connect::ConnectError;
use spotreel_bus::log::ReadError;
use spotreel_bus::{AppendError, ServiceError};
use spotreel_domain::api_key::KeyId;
use spotreel_domain::task::Refused;
use spotreel_domain::{Owner, TaskId};

/// Why intake did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("can't listen on {listen}: set api.listen to a free address, or to port 0 for any")]
    Listen {
        listen: SocketAddr,
        source: std::io::Error,
    },
    #[error("the NATS API can't be offered")]
    Offer(#[from] ServiceError),
}

/// Longest text in a refusal. What a client sent may be quoted in it, and that may be megabytes.
const MAX_TEXT: usize = 400;
/// When to come back after NATS or the object store was down: a restart of the server takes a few seconds.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(2);

/// What fills a bound here is a matter of seconds.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// Room comes back when the janitor has passed.
const LOG_FULL_RETRY: Duration = Duration::from_secs(60);

pub fn invalid(mut violations: Vec<Violation>) -> ApiError {
    for violation in &mut violations {
        clip(&mut violation.field);
        clip(&mut violation.message);
    }
    let message = match violations.as_slice() {
        [] => "the request is not valid".to_owned(),
        [only] => only.message.clone(),
        [first, others @ ..] => format!("{} (and {} more)", first.message, others.len()),
    };
    ApiError {
        violations,
        ..refusal(ErrorCode::Invalid, message, None)
    }
}

pub fn broken(field: &str, rule: &str, message: impl Into<String>) -> ApiError {
    invalid(vec![Violation::new(field, rule, message)])
}

pub fn not_found(id: &TaskId) -> ApiError {
    refusal(ErrorCode::NotFound, format!("there is no task {id}"), None)
}

/// `fields` are those in which the two tasks are known to differ.
pub fn conflict(id: &TaskId, fields: &[&str]) -> ApiError {
    let named = match fields {
        [] => String::new(),
        fields => format!(" ({} differs)", fields.join(", ")),
    };
    let message =
        format!("task {id} exists with other content{named}: use another id or idempotency_key");
    let differs = |field: &&str| {
        let message = format!("{field} differs from that of the task that has this id");
        Violation::new(field, "same", message)
    };
    ApiError {
        violations: fields.iter().map(differs).collect(),
        ..refusal(ErrorCode::Conflict, message, None)
    }
}

pub fn not_allowed(id: &TaskId, refused: &Refused) -> ApiError {
    refusal(ErrorCode::NotAllowed, format!("task {id}: {refused}"), None)
}

/// About the whole system, which only a key of all tasks may see.
pub fn not_for_owners(what: &str) -> ApiError {
    let message = format!(
        "{what} are shown only to keys that see all tasks: ask an operator for one made with --all"
    );
    refusal(ErrorCode::NotFound, message, None)
}

pub fn no_key(id: &KeyId) -> ApiError {
    refusal(ErrorCode::NotFound, format!("there is no key {id}"), None)
}

pub fn too_many_keys(most: usize) -> ApiError {
    let message = format!("there are {most} keys already: revoke those that nobody uses");
    refusal(ErrorCode::NotAllowed, message, None)
}

pub fn queue_full(message: String, retry_after: Duration) -> ApiError {
    refusal(ErrorCode::QueueFull, message, Some(retry_after))
}

pub fn rate_limited(message: String, retry_after: Duration) -> ApiError {
    refusal(ErrorCode::RateLimited, message, Some(retry_after))
}

pub fn too_large(message: String) -> ApiError {
    refusal(ErrorCode::TooLarge, message, None)
}

pub fn unavailable(what: &str) -> ApiError {
    let message = format!("{what}: send the same request again");
    refusal(ErrorCode::Unavailable, message, Some(UNAVAILABLE_RETRY))
}

pub fn unauthorized(message: String) -> ApiError {
    refusal(ErrorCode::Unauthorized, message, None)
}

pub fn unsupported(message: String) -> ApiError {
    refusal(ErrorCode::UnsupportedMediaType, message, None)
}

pub fn no_such_page(path: &str) -> ApiError {
    let message = format!("there is nothing at {path}: see /v1/openapi.json");
    refusal(ErrorCode::NotFound, message, None)
}

pub fn method_not_allowed(method: &str, path: &str) -> ApiError {
    let message = format!("{path} does not answer to {method}: see the header Allow");
    refusal(ErrorCode::MethodNotAllowed, message, None)
}

pub fn no_video(message: String) -> ApiError {
    refusal(ErrorCode::NotAllowed, message, None)
}

pub fn timed_out(message: String) -> ApiError {
    refusal(ErrorCode::Timeout, message, None)
}

/// A bound of this program is reached; others may have room.
pub fn busy(what: &str) -> ApiError {
    let message = format!("{what}: send it again a little later");
    refusal(ErrorCode::Unavailable, message, Some(BUSY_RETRY))
}

/// An owner of keys holds all of a bound that one may hold; others have room.
pub fn share_taken(owner: &Owner, each: usize, what: &str) -> ApiError {
    let message = format!(
        "owner {owner} has {each} {what}, and one owner may not have more: send it again when one of them has ended"
    );
    rate_limited(message, BUSY_RETRY)
}

/// The log did not answer a reader.
pub fn unread(error: &ReadError) -> ApiError {
    tracing::warn!(error = %spotreel_domain::chain(error), "reading the task log failed");
    unavailable("the task log cannot be read now")
}

/// The log did not take a write.
pub fn unwritten(failure: &AppendError) -> ApiError {
    match failure {
        AppendError::Full => queue_full(
            "the task log is full: send it again later".into(),
            LOG_FULL_RETRY,
        ),
        AppendError::TooLarge => too_large("the task is larger than the log takes".into()),
        AppendError::Conflict(_) => unavailable("others change this task at the same moment"),
        AppendError::Unavailable(source) => {
            tracing::warn!(error = %spotreel_domain::chain(&source), "writing an event failed");
            unavailable("the task log cannot be written now")
        }
    }
}

/// Worth the same submission again: nothing is wrong with it.
pub fn is_transient(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::QueueFull | ErrorCode::RateLimited | ErrorCode::Unavailable
    )
}

fn refusal(code: ErrorCode, mut message: String, retry_after: Option<Duration>) -> ApiError {
    clip(&mut message);
    let retry_after_s =
        retry_after.map(|after| (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1));
    ApiError {
        code,
        message,
        violations: Vec::new(),
        retry_after_s,
    }
}

fn clip(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
}
