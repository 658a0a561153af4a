//! One delivery over HTTP.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response};
use spotreel_domain::webhook::{AllowedHosts, DeliveryAttempt, SigningSecrets, WebhookUrl};
use tokio::time::Instant;

use crate::resolver::{CheckedResolver, Lookup, ResolveError, system_lookup};

const EVENT_TYPE: &str = "application/cloudevents+json";
/// Of an answer. A receiver has nothing to say that would be longer.
const MOST_READ: usize = 64 << 10;
/// For the rest of an answer whose status is known.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// Idle connections that are kept: as many as deliveries to one receiver run at a time.
const IDLE_PER_HOST: usize = 4;
const IDLE_KEPT: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct SignedDelivery<'a> {
    pub target: &'a WebhookUrl,
    /// The same in each try of an event.
    pub id: &'a str,
    pub body: &'a [u8],
    pub secrets: &'a SigningSecrets,
}

/// Sends deliveries; clones share their connections.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    allowed: AllowedHosts,
    deadline: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be made")]
pub struct BuildError(#[from] reqwest::Error);

impl Sender {
    pub fn new(allowed: AllowedHosts, deadline: Duration) -> Result<Self, BuildError> {
        Self::with_lookup(system_lookup(), allowed, deadline)
    }

    pub fn with_lookup(
        lookup: Lookup,
        allowed: AllowedHosts,
        deadline: Duration,
    ) -> Result<Self, BuildError> {
        let resolver = CheckedResolver::new(lookup, allowed.clone());
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .referer(false)
            .dns_resolver(Arc::new(resolver))
            .user_agent(concat!("spotreel/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_KEPT)
            .build()?;
        Ok(Self {
            client,
            allowed,
            deadline,
        })
    }

    /// Signs it for this time and sends it once.
    pub async fn send(&self, delivery: SignedDelivery<'_>, now: Timestamp) -> DeliveryAttempt {
        let began = Instant::now();
        // A configuration may have changed since the target was stored.
        if let Err(refused) = delivery.target.permit(&self.allowed) {
            return failed(refused.to_string(), began);
        }
        let signature = delivery.secrets.signature(delivery.id, now, delivery.body);
        let request = self
            .client
            .post(delivery.target.as_str())
            .header(CONTENT_TYPE, EVENT_TYPE)
            .header("webhook-id", delivery.id)
            .header("webhook-timestamp", now.as_second())
            .header("webhook-signature", signature)
            .body(delivery.body.to_vec());
        let answer = match tokio::time::timeout(self.deadline, request.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return failed(problem(&error), began),
            Err(_) => {
                let seconds = self.deadline.as_secs_f64();
                return failed(format!("no answer within {seconds} s"), began);
            }
        };
        let attempt = DeliveryAttempt {
            status: Some(answer.status().as_u16()),
            problem: None,
            retry_after: retry_after(answer.headers(), now),
            took: began.elapsed(),
        };
        // Whatever comes of it: the status has been said.
        let _ = tokio::time::timeout(READ_WITHIN, drain(answer)).await;
        attempt
    }
}

/// Reads the body, so that the connection can be used again. One that is too long ends the connection.
async fn drain(mut answer: Response) {
    let mut read = 0;
    while read <= MOST_READ
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        read += chunk.len();
    }
}

fn failed(problem: String, began: Instant) -> DeliveryAttempt {
    DeliveryAttempt {
        status: None,
        problem: Some(problem),
        retry_after: None,
        took: began.elapsed(),
    }
}

/// The innermost cause says most: `connection refused`. The outer ones may tell the URL.
fn problem(error: &reqwest::Error) -> String {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(next) = cause.source() {
        if let Some(resolve) = cause.downcast_ref::<ResolveError>() {
            return format!("{resolve}: {next}");
        }
        cause = next;
    }
    match cause.is::<reqwest::Error>() {
        true => "the request could not be sent".to_owned(),
        false => cause.to_string(),
    }
}

/// Seconds, or a date of HTTP.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-10-21T07:27:00Z".parse().expect("it is a time");
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("it is a value"));
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            read("Wed, 21 Oct 2026 07:28:00 GMT"),
            Some(Duration::from_secs(60))
        );
        for odd in ["", "-1", "soon", "1.5", "Wed, 21 Oct 2026 07:26:00 GMT"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
