//! Searches: the caller's rights are applied here, monitor has the rows and answers.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::LINK;
use axum::response::{IntoResponse, Response};
use spotreel_api::schema::Searched;
use spotreel_api::{ApiError, SearchPage, SearchQuery};
use spotreel_bus::names;
use spotreel_domain::Owner;

use super::api::Api;
use super::ask::MONITOR;
use super::problem::Problem;
use super::query::Asked;
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

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
        let mut page: SearchPage = self.ask(names::SEARCH, &question, MONITOR).await?;
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
