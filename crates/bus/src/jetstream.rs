//! Requests to JetStream with every outcome told apart: stored, refused and why, or unknown.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::connect::REQUEST_TIMEOUT;

/// JetStream error codes that mean "somebody was first": on one node, on a cluster, and inside an atomic batch.
const CONFLICT: [u64; 2] = [10_071, 10_164];
/// The stream has reached one of its limits.
const FULL: [u64; 2] = [10_077, 10_047];
const NOT_FOUND: [u64; 2] = [10_037, 10_014];

#[derive(Debug, thiserror::Error)]
pub enum JetStreamError {
    #[error("a newer message exists on the subject")]
    Conflict,
    #[error("the stream is full")]
    Full,
    #[error("the message does not exist")]
    NotFound,
    #[error("JetStream refused: {description} ({code})")]
    Refused { code: u64, description: String },
    /// Nothing was stored: nobody was there to do it.
    #[error(
        "no JetStream server answers {0}: check that NATS runs and that `spotreel provision` was run"
    )]
    NoResponder(String),
    /// It may or may not have been done.
    #[error("JetStream did not answer {0} in time")]
    Unknown(String),
    #[error("the message is larger than the server accepts")]
    TooLarge,
    #[error("JetStream's answer is not JSON")]
    Unreadable(#[from] serde_json::Error),
    #[error("the value is no protobuf of its type")]
    Undecodable(#[from] prost::DecodeError),
}

impl JetStreamError {
    /// Worth the same request again later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoResponder(_) | Self::Unknown(_) => true,
            // 503: no leader, out of resources for now.
            Self::Refused { code, .. } => {
                matches!(code, 10_008 | 10_023 | 10_039 | 10_210 | 10_009)
            }
            _ => false,
        }
    }
}

#[derive(Deserialize)]
struct ApiFailure {
    err_code: Option<u64>,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct ApiAnswer<T> {
    error: Option<ApiFailure>,
    #[serde(flatten)]
    body: Option<T>,
}

#[derive(Debug, Deserialize)]
pub struct PubAck {
    pub seq: u64,
}

pub async fn request<T: DeserializeOwned>(
    client: &Client,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
    timeout: Duration,
) -> Result<T, JetStreamError> {
    if payload.len() > client.max_payload() {
        return Err(JetStreamError::TooLarge);
    }
    let request = Request::new()
        .headers(headers)
        .payload(payload)
        .timeout(Some(timeout));
    let answer = client
        .send_request(subject.to_owned(), request)
        .await
        .map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => JetStreamError::NoResponder(subject.to_owned()),
            RequestErrorKind::MaxPayloadExceeded => JetStreamError::TooLarge,
            _ => JetStreamError::Unknown(subject.to_owned()),
        })?;
    let answer: ApiAnswer<T> = serde_json::from_slice(&answer.payload)?;
    match (answer.error, answer.body) {
        (Some(failure), _) => Err(classify(failure)),
        (None, Some(body)) => Ok(body),
        (None, None) => Err(JetStreamError::Unknown(subject.to_owned())),
    }
}

fn classify(failure: ApiFailure) -> JetStreamError {
    let code = failure.err_code.unwrap_or_default();
    let wrong_sequence = failure.description.contains("wrong last sequence");
    match code {
        code if CONFLICT.contains(&code) || wrong_sequence => JetStreamError::Conflict,
        code if FULL.contains(&code) => JetStreamError::Full,
        code if NOT_FOUND.contains(&code) => JetStreamError::NotFound,
        code => JetStreamError::Refused {
            code,
            description: failure.description,
        },
    }
}

/// What the server says of a stream, as far as `T` has fields for it.
pub async fn stream_info<T: DeserializeOwned>(
    client: &Client,
    stream: &str,
) -> Result<T, JetStreamError> {
    ask(client, &format!("$JS.API.STREAM.INFO.{stream}")).await
}

/// What the server says of a consumer, as far as `T` has fields for it.
pub async fn consumer_info<T: DeserializeOwned>(
    client: &Client,
    stream: &str,
    consumer: &str,
) -> Result<T, JetStreamError> {
    ask(
        client,
        &format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
    )
    .await
}

/// A question that its subject says in full.
pub async fn ask<T: DeserializeOwned>(client: &Client, subject: &str) -> Result<T, JetStreamError> {
    let (headers, nothing) = (HeaderMap::new(), Bytes::new());
    request(client, subject, headers, nothing, REQUEST_TIMEOUT).await
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Sequence(u64),
    Time(Timestamp),
}

/// At most `limit` messages of a stream that match `filter`, in its order, in one round trip. Any replica answers, so the
/// newest may be missing.
pub async fn page(
    client: &Client,
    stream: &str,
    filter: &str,
    start: Start,
    limit: usize,
) -> Result<Vec<Stored>, JetStreamError> {
    let mut query = serde_json::json!({ "batch": limit, "next_by_subj": filter });
    match start {
        Start::Sequence(sequence) => query["seq"] = sequence.max(1).into(),
        Start::Time(time) => query["start_time"] = time.to_string().into(),
    }
    direct_get(client, stream, &query).await
}

/// A message of a stream, as a direct get shows it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub subject: String,
    pub sequence: u64,
    pub stored_at: Timestamp,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

/// All messages that `query` names, in one round trip. Any replica answers, so the newest may be missing.
pub(crate) async fn direct_get(
    client: &Client,
    stream: &str,
    query: &serde_json::Value,
) -> Result<Vec<Stored>, JetStreamError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let unanswered = || JetStreamError::Unknown(subject.clone());
    let inbox = client.new_inbox();
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| unanswered())?;
    client
        .publish_with_reply(subject.clone(), inbox, query.to_string().into())
        .await
        .map_err(|_| unanswered())?;
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(REQUEST_TIMEOUT, answers.next()).await;
        let Ok(Some(message)) = next else {
            return Err(unanswered());
        };
        // Status messages end the answer: 204 that was all, 404 there is none.
        if let Some(status) = message.status {
            return match status.as_u16() {
                204 | 404 => Ok(found),
                503 => Err(JetStreamError::NoResponder(subject)),
                other => Err(JetStreamError::Refused {
                    code: other.into(),
                    description: message.description.unwrap_or_default(),
                }),
            };
        }
        let headers = message.headers.unwrap_or_default();
        let text = |name: &str| headers.get(name).map_or("", |value| value.as_str());
        found.push(Stored {
            subject: text("Nats-Subject").to_owned(),
            sequence: text("Nats-Sequence").parse().unwrap_or_default(),
            stored_at: text("Nats-Time-Stamp").parse().unwrap_or_default(),
            payload: message.payload,
            headers,
        });
    }
}

/// The sequence of the first message from `sequence` on that matches `filter`, asked of the leader.
pub(crate) async fn next_message(
    client: &Client,
    stream: &str,
    filter: &str,
    sequence: u64,
) -> Result<Option<u64>, JetStreamError> {
    #[derive(Deserialize)]
    struct Found {
        message: PubAck,
    }
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    let body = serde_json::json!({ "seq": sequence, "next_by_subj": filter }).to_string();
    let headers = HeaderMap::new();
    match request::<Found>(client, &subject, headers, body.into(), REQUEST_TIMEOUT).await {
        Ok(found) => Ok(Some(found.message.seq)),
        Err(JetStreamError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes one message of a stream; one that is gone already is deleted too.
pub async fn delete_message(
    client: &Client,
    stream: &str,
    sequence: u64,
) -> Result<(), JetStreamError> {
    #[derive(Deserialize)]
    struct Done {}
    let subject = format!("$JS.API.STREAM.MSG.DELETE.{stream}");
    let body = serde_json::json!({ "seq": sequence, "no_erase": true }).to_string();
    let done = request::<Done>(
        client,
        &subject,
        HeaderMap::new(),
        body.into(),
        REQUEST_TIMEOUT,
    );
    match done.await {
        Ok(_) | Err(JetStreamError::NotFound) => Ok(()),
        // One node: 10057 with these words, as for every failed deletion; a cluster: 10043.
        Err(JetStreamError::Refused {
            code: 10_057,
            description,
        }) if description == "no message found" => Ok(()),
        Err(JetStreamError::Refused { code: 10_043, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
