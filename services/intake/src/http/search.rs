//! Searches: the caller's rights are applied here, monitor has the rows and answers.

use axum::extract::State;
use axum::response::Response;
use spotreel_api::schema::Searched;
use spotreel_api::{ApiError, SearchPage, SearchQuery};
use spotreel_bus::names;
use spotreel_domain::Owner;

use super::api::Api;
use super::problem::Problem;
use super::query::{Asked, paged};
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
    let next = page.next_cursor.map(|cursor| SearchQuery {
        cursor: Some(cursor),
        ..query
    });
    Ok(paged("/v1/search", page, next))
}

impl Intake {
    async fn search(&self, caller: &Caller, query: SearchQuery) -> Result<SearchPage, ApiError> {
        let question = permitted(caller, query)?;
        let mut page: SearchPage = self.ask(names::SEARCH, &question).await?;
        // Monitor has filtered them already; a fault there must not show anybody's tasks to others.
        page.tasks
            .retain(|task| caller.may_see_of(task.owner.as_ref()));
        Ok(page)
    }
}

/// The query with the caller's own tasks only, unless the caller sees all. Refused is what monitor would refuse, too.
fn permitted(caller: &Caller, mut query: SearchQuery) -> Result<SearchQuery, ApiError> {
    caller.permit(query.owner.as_deref(), query.check())?;
    if query.owner.is_none() && !caller.may_see_of(None) {
        query.owner = caller.owner().map(Owner::to_string);
    }
    Ok(query)
}
