//! An atomic batch: messages that the server stores together, with one fsync, or not at all.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;

use crate::append::TRY_TIMEOUT;
use crate::jetstream::{self, JetStreamError, PubAck};

/// The server's limit for one atomic batch.
pub const MAX_BATCH: usize = 1_000;

pub(crate) struct Message {
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
}

/// Stores up to [`MAX_BATCH`] messages and returns the sequence of each. Each may expect a last sequence of its own. The
/// server compares it only with what is stored, not with the other messages of the batch.
///
/// No two batches have the same `id`. Any error leaves open what happened.
pub(crate) async fn publish(
    client: &Client,
    mut messages: Vec<Message>,
    id: &str,
) -> Result<Vec<u64>, JetStreamError> {
    let count = messages.len();
    debug_assert!(count <= MAX_BATCH);
    for (index, message) in messages.iter_mut().enumerate() {
        let headers = &mut message.headers;
        headers.insert("Nats-Batch-Id", id);
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string().as_str());
    }
    let Some(mut last) = messages.pop() else {
        return Ok(Vec::new());
    };
    for message in messages {
        let unknown = JetStreamError::Unknown(message.subject.clone());
        client
            .publish_with_headers(message.subject, message.headers, message.payload)
            .await
            .map_err(|_| unknown)?;
    }
    last.headers.insert("Nats-Batch-Commit", "1");
    let sent = jetstream::request::<PubAck>(
        client,
        &last.subject,
        last.headers,
        last.payload,
        TRY_TIMEOUT,
    );
    let ack = sent.await?;
    let first = ack.seq + 1 - count as u64;
    Ok((first..=ack.seq).collect())
}
