//! The client of the instance metadata service (IMDSv2), and its clock.

use std::sync::atomic::{AtomicI64, Ordering};

use aws_config::imds::Client;
use aws_config::imds::client::error::ImdsError;
use jiff::{SignedDuration, Timestamp};
use spotreel_bootstrap::ambient;

/// A poll that fails is followed by the next; one more try within it is for a lost packet.
const ATTEMPTS: u32 = 2;
/// Number of refusals in a row after which the client's token is dropped: the SDK repeats a refused token for ever.
const REFUSALS: u32 = 2;
/// Clocks that differ by no more than this agree: the service tells whole seconds.
const CLOCKS_AGREE_S: i64 = 2;

#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("the metadata service refused the session token")]
    Refused,
    #[error("the metadata service cannot be reached: {0}")]
    Away(String),
}

pub struct Metadata {
    client: Client,
    refusals: u32,
    /// How many seconds its clock, against which notices are written, is ahead of ours. This machine's own may be wrong.
    ahead: AtomicI64,
}

impl Metadata {
    pub fn new() -> Self {
        Self {
            client: client(),
            refusals: 0,
            ahead: AtomicI64::default(),
        }
    }

    /// Counts refusals in a row, by the result of a poll.
    pub fn polled(&mut self, error: Option<&MetadataError>) {
        match error {
            None => self.refusals = 0,
            Some(MetadataError::Refused) => self.refusals += 1,
            Some(MetadataError::Away(_)) => {}
        }
        if self.refusals >= REFUSALS {
            (self.client, self.refusals) = (client(), 0);
        }
    }

    pub async fn get(&self, path: &str) -> Result<Option<String>, MetadataError> {
        self.read(&format!("meta-data/{path}")).await
    }

    /// None: there is no such thing. Those answers tell the service's time.
    pub async fn read(&self, path: &str) -> Result<Option<String>, MetadataError> {
        match self.client.get(format!("/latest/{path}")).await {
            Ok(text) => Ok(Some(String::from(text))),
            Err(ImdsError::ErrorResponse(error)) => match error.response().status().as_u16() {
                404 => {
                    let headers = error.response().headers();
                    self.hear(headers.get("date"));
                    Ok(None)
                }
                401 => Err(MetadataError::Refused),
                status => Err(MetadataError::Away(format!("status {status}"))),
            },
            Err(error) => Err(MetadataError::Away(spotreel_domain::chain(&error))),
        }
    }

    /// `date`: the header of an answer. It has whole seconds: where the clocks agree, ours is the finer one.
    fn hear(&self, date: Option<&str>) {
        let Some(at) = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()) else {
            return;
        };
        let ahead = at.timestamp().duration_since(ambient::now()).as_secs();
        let ahead = if ahead.abs() <= CLOCKS_AGREE_S {
            0
        } else {
            ahead
        };
        if self.ahead.swap(ahead, Ordering::Relaxed) != ahead && ahead != 0 {
            tracing::warn!(
                ahead,
                "clock of this machine is wrong: using the metadata service's clock for notices"
            );
        }
    }

    /// The time of the service.
    pub fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.ahead.load(Ordering::Relaxed));
        let now = ambient::now();
        now.checked_add(ahead).unwrap_or(now)
    }
}

fn client() -> Client {
    Client::builder().max_attempts(ATTEMPTS).build()
}
