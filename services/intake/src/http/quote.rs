//! Quotes: checked here like a submission, computed by trigger, which knows pools and prices.

use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use spotreel_bus::names;
use spotreel_domain::api::{ApiError, ErrorReply};
use spotreel_domain::quote::{Quote, QuoteQuery};

use crate::error;
use crate::submit::{Intake, now};

/// Trigger reads one key for it, in milliseconds; this is for one that is overrun.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Intake {
    /// Refuses what a submission would be refused for, before anybody else is asked.
    pub async fn quote(&self, mut query: QuoteQuery) -> Result<Quote, ApiError> {
        let mut spec = query.spec(now()).map_err(error::invalid)?;
        self.offers.admit(&mut spec)?;
        // It changes no cost, and may be larger than a message.
        query.task.image = None;
        let question = serde_json::to_vec(&query).expect("it has string keys only");
        let request = Request::new()
            .payload(question.into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self.log.client().send_request(names::QUOTE, request).await;
        let answer = answer.map_err(|failure| {
            tracing::warn!(error = %spotreel_domain::chain(&failure), "trigger did not answer a quote request: check that spotreel-trigger runs and that NATS has this version's accounts.conf");
            error::unavailable(match failure.kind() {
                RequestErrorKind::NoResponders => {
                    "spotreel-trigger makes the quotes, and none is running now"
                }
                _ => "spotreel-trigger makes the quotes, and did not answer in time",
            })
        })?;
        read(&answer.payload)
    }
}

fn read(answer: &[u8]) -> Result<Quote, ApiError> {
    if let Ok(ErrorReply { error }) = serde_json::from_slice(answer) {
        return Err(error);
    }
    serde_json::from_slice(answer).map_err(|failure| {
        tracing::warn!(error = %spotreel_domain::chain(&failure), "quote from trigger cannot be decoded: check that both programs have the same version");
        error::unavailable("spotreel-trigger's quote cannot be read: it may be of another version")
    })
}
