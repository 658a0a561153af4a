//! What tasks will take and cost, before any is submitted: checked here like a submission, computed by trigger, which knows
//! pools and prices.

use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use spotreel_api::schema::Quotable;
use spotreel_api::{ApiError, ErrorReply, Quote, QuoteQuery};
use spotreel_bus::names;

use super::api::Api;
use super::body::{self, Place};
use super::problem::Problem;
use crate::clock::now;
use crate::config::LARGEST_BODY;
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;
use crate::submit::parse;

/// Trigger reads one key for it, in milliseconds; this is for one that is overrun.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Says what tasks will take and cost: an offer for each instance type that can render them, the cheapest video first.
///
/// Submits nothing. No offer is no refusal: `none` says why there is none.
#[utoipa::path(
    post, path = "/v1/quotes", tag = "quotes", operation_id = "quote",
    request_body = Quotable,
    responses((status = 200, body = Quote), super::openapi::Refusals)
)]
pub(super) async fn quote(
    State(api): State<Api>,
    caller: Caller,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Quote>, Problem> {
    if body::media_type(&headers)?.as_deref() != Some("application/json") {
        return Err(error::unsupported("Content-Type is application/json".into()).into());
    }
    let held = body::read(&api, &caller, &place, &headers, body, LARGEST_BODY).await?;
    let query = parse::quote(held.as_slice())?;
    // Nothing is rendered for it, so over all callers it does not count.
    api.pace(&caller, 1)?;
    Ok(Json(api.intake.quote(query).await?))
}

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
