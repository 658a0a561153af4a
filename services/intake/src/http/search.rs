//! Searches: the caller's rights are applied here, monitor has the rows and answers.

use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::LINK;
use axum::response::{IntoResponse, Response};
use spotreel_api::schema::Searched;
use spotreel_api::{ApiError, ErrorReply, SearchPage, SearchQuery};
use spotreel_bus::names;
use spotreel_domain::Owner;

use super::api::Api;
use super::problem::Problem;
use super::query::Asked;
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

/// Monitor ends a page after some 50 ms; this is for one that is overrun.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tasks by words of the prompt and by filters, the newest submission first.
///
/// No task moves between pages while you read them. A page may be short or empty before the last one: go on until there is no
/// `next_cursor`.
#[utoipa::path(
    get, path = "/v1/search", tag = "tasks", operation_id = "search_tasks", params(Searched),
    responses(
        (status = 200, body = SearchPage, headers(("Link" = String, description = "`rel=\"next\"`: the next page, if there is one (RFC 8288)."))),
        super::openapi::Refusals
    )
)]
pub(super) async fn search(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<SearchQuery>,
) -> Result<Response, Problem> {
    let page = api.intake.search(&caller, query.clone()).await?;
    let link = page.next_cursor.map(|cursor| {
        let next = SearchQuery {
            cursor: Some(cursor),
            ..query
        };
        let next = serde_urlencoded::to_string(next).expect("every field is a word or a number");
        format!("</v1/search?{next}>; rel=\"next\"")
    });
    let mut response = Json(page).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

impl Intake {
    async fn search(&self, caller: &Caller, query: SearchQuery) -> Result<SearchPage, ApiError> {
        let question = permitted(caller, query)?;
        let question = serde_json::to_vec(&question).expect("it has string keys only");
        let request = Request::new()
            .payload(question.into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self.log.client().send_request(names::SEARCH, request).await;
        let answer = answer.map_err(|failure| {
            tracing::warn!(error = %spotreel_domain::chain(&failure), "monitor did not answer a search: check that spotreel-monitor runs and that NATS has this version's accounts.conf");
            error::unavailable(match failure.kind() {
                RequestErrorKind::NoResponders => {
                    "spotreel-monitor answers searches, and none runs now with search.enabled"
                }
                _ => "spotreel-monitor answers searches, and did not answer in time",
            })
        })?;
        let mut page = read(&answer.payload)?;
        // Monitor has filtered them already; a fault there must not show anybody's tasks to others.
        page.tasks
            .retain(|task| caller.may_see_of(task.owner.as_ref()));
        Ok(page)
    }
}

/// The query with the caller's own tasks only, unless the caller sees all. Refused is what monitor would refuse, too.
fn permitted(caller: &Caller, mut query: SearchQuery) -> Result<SearchQuery, ApiError> {
    let mut broken = query.check().err().unwrap_or_default();
    let named = query.owner.as_deref().map(Owner::parse);
    if let Some(Ok(named)) = &named
        && !caller.may_see_of(Some(named))
    {
        let message = "this key sees the tasks of its own owner only: leave owner out";
        broken.push(error::violation("owner", "access", message));
    }
    if !broken.is_empty() {
        return Err(error::invalid(broken));
    }
    if named.is_none() && !caller.may_see_of(None) {
        query.owner = caller.owner().map(Owner::to_string);
    }
    Ok(query)
}

fn read(answer: &[u8]) -> Result<SearchPage, ApiError> {
    if let Ok(ErrorReply { error }) = serde_json::from_slice(answer) {
        return Err(error);
    }
    serde_json::from_slice(answer).map_err(|failure| {
        tracing::warn!(error = %spotreel_domain::chain(&failure), "answer from monitor cannot be decoded: check that both programs have the same version");
        error::unavailable("spotreel-monitor's answer cannot be read: it may be of another version")
    })
}
