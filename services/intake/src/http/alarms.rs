//! The alarms, which monitor keeps.

use axum::Json;
use axum::extract::State;
use spotreel_api::{AlarmsQuery, AlarmsView};
use spotreel_bus::names;

use super::api::Api;
use super::problem::Problem;
use super::query::Asked;
use crate::keys::Caller;

/// What fires now, what is pending, and what has resolved within seven days, each with what to do.
///
/// Alarms are about the whole system, so they need a key that sees all tasks.
#[utoipa::path(
    get, path = "/v1/alarms", tag = "alarms", operation_id = "alarms", params(AlarmsQuery),
    responses((status = 200, body = AlarmsView), super::openapi::Refusals)
)]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Asked(query): Asked<AlarmsQuery>,
) -> Result<Json<AlarmsView>, Problem> {
    caller.must_see_all("alarms")?;
    Ok(Json(api.intake.ask(names::ALARMS, &query).await?))
}
