//! Messages that no delivery can bring: their client wrote the headers by hand, and async-nats takes headers that it
//! cannot read for a broken connection. Such a message would cut its reader's connection at every delivery, and come
//! again when its lease ends, for ever. Asked for by its sequence, it comes inside JSON, which cuts nothing.

use async_nats::{HeaderMap, HeaderName, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::Queue;
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{self, ApiError};

/// Leased messages that one look goes through; those behind are reached when the first of them are acked.
const MOST: u64 = 1_000;

#[derive(Deserialize)]
struct Leases {
    delivered: Place,
    ack_floor: Place,
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct Place {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct Found {
    message: Stored,
}

#[derive(Deserialize)]
struct Stored {
    /// In base64; absent without headers.
    #[serde(default)]
    hdrs: String,
}

impl Queue {
    /// Sequences of leased messages that cannot be read.
    pub async fn unreadable(&self) -> Result<Vec<u64>, ApiError> {
        let consumer = format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer);
        let leases: Leases = self.look(&consumer, String::new()).await?;
        // A look brings whole messages, so one delivery comes first.
        if leases.num_redelivered == 0 {
            return Ok(Vec::new());
        }
        let first = leases.ack_floor.stream_seq + 1;
        let last = leases.delivered.stream_seq.min(first + MOST);
        let get = format!("STREAM.MSG.GET.{}", self.stream);
        let mut unreadable = Vec::new();
        for sequence in first..=last {
            let body = json!({ "seq": sequence }).to_string();
            match self.look::<Found>(&get, body).await {
                Ok(found) if found.message.is_unreadable() => unreadable.push(sequence),
                // What is gone was acked.
                Ok(_) | Err(ApiError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(unreadable)
    }

    /// Takes a message away that cannot be acked.
    pub async fn remove(&self, sequence: u64) -> Result<(), ApiError> {
        jetstream::delete_message(&self.client, self.stream, sequence).await
    }

    async fn look<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        body: String,
    ) -> Result<T, ApiError> {
        let subject = format!("$JS.API.{what}");
        let none = HeaderMap::new();
        jetstream::request(&self.client, &subject, none, body.into(), REQUEST_TIMEOUT).await
    }
}

impl Stored {
    fn is_unreadable(&self) -> bool {
        let Ok(headers) = STANDARD.decode(&self.hdrs) else {
            return false;
        };
        !headers.is_empty() && !is_readable(&headers)
    }
}

/// Whether async-nats reads these headers; as it does in its connection.
pub fn is_readable(headers: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(headers) else {
        return false;
    };
    let mut lines = text.lines().peekable();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return false;
    };
    let status = status.trim().split(' ').next().unwrap_or_default();
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return false;
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let name = line.split_once(':').map(|(name, _)| name);
        if name.is_none_or(|name| name.parse::<HeaderName>().is_err()) {
            return false;
        }
        while lines
            .next_if(|line| line.starts_with(char::is_whitespace))
            .is_some()
        {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cuts_a_connection_is_known() {
        for good in [
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n\r\n",
            "NATS/1.0 404 No Messages\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n  folded without a colon\r\n\r\n",
            "NATS/1.0\r\nA:\r\n\r\n",
        ] {
            assert!(is_readable(good.as_bytes()), "{good:?}");
        }
        for bad in [
            &b""[..],
            b"XXXX/1.0\r\n\r\n",
            b"NATS/1.0 4040\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nA b: c\r\n\r\n",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
        ] {
            assert!(!is_readable(bad), "{:?}", bad.escape_ascii().to_string());
        }
    }
}
