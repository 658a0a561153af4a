//! Requests over NATS.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, Request, RequestErrorKind};
use serde_json::Value;

use super::POLL;

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends JSON, and returns the answer's.
pub async fn ask(client: &Client, subject: &str, body: &Value) -> Value {
    let body = body.to_string();
    let answer = request(client, subject, || {
        Request::new().payload(body.clone().into())
    })
    .await;
    serde_json::from_slice(&answer.payload).expect("services answer in JSON")
}

/// Sends a request until somebody hears it: a service that has started subscribes a moment later.
pub async fn request(client: &Client, subject: &str, request: impl Fn() -> Request) -> Message {
    let began = Instant::now();
    loop {
        let request = request().timeout(Some(PATIENCE));
        match client.send_request(subject.to_owned(), request).await {
            Ok(answer) => return answer,
            Err(error) => {
                let nobody = error.kind() == RequestErrorKind::NoResponders;
                assert!(nobody && began.elapsed() < PATIENCE, "{subject}: {error}");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
