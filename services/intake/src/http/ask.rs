//! Questions to other services on behalf of HTTP callers: each has a deadline, and an answer that cannot be had is `unavailable`.

use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{ApiError, ErrorReply};
use spotreel_bus::names;

use crate::error;
use crate::intake::Intake;

/// The services read a few keys for an answer, in milliseconds; this is for one that is overrun.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Intake {
    /// Asks the service that answers the verb.
    pub(super) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        verb: &'static str,
        question: &Q,
    ) -> Result<A, ApiError> {
        self.ask_within(ANSWER_WITHIN, verb, question).await
    }

    pub(super) async fn ask_within<Q: Serialize, A: DeserializeOwned>(
        &self,
        deadline: Duration,
        verb: &'static str,
        question: &Q,
    ) -> Result<A, ApiError> {
        let of = names::program_of(verb);
        let question = serde_json::to_vec(question).expect("it has string keys only");
        let request = Request::new()
            .payload(question.into())
            .timeout(Some(deadline));
        let answer = self.log.client().send_request(verb, request).await;
        let answer = answer.map_err(|failure| {
            tracing::warn!(error = %spotreel_domain::chain(&failure), subject = verb, service = of, "service did not answer a request: check that it runs and that NATS has this version's accounts.conf");
            error::unavailable(&match failure.kind() {
                RequestErrorKind::NoResponders => {
                    format!("{of} answers this, and none is running now")
                }
                _ => format!("{of} answers this, and did not answer in time"),
            })
        })?;
        read(&answer.payload, of)
    }
}

fn read<A: DeserializeOwned>(answer: &[u8], of: &'static str) -> Result<A, ApiError> {
    if let Ok(ErrorReply { error }) = serde_json::from_slice(answer) {
        return Err(error);
    }
    serde_json::from_slice(answer).map_err(|failure| {
        tracing::warn!(error = %spotreel_domain::chain(&failure), service = of, "answer of a service cannot be decoded: check that both programs have the same version");
        error::unavailable(&format!(
            "the answer of {of} cannot be read: it may be of another version"
        ))
    })
}
