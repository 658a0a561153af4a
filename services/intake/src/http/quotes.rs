//! What tasks will take and cost, before any is submitted: checked here like a submission, computed by trigger, which knows
//! pools and prices.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use spotreel_api::schema::Quotable;
use spotreel_api::{ApiError, Quote, QuoteQuery};
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
        self.ask(names::QUOTE, &query).await
    }
}
