//! The alarms, which monitor keeps.

use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use axum::Json;
use axum::extract::State;
use spotreel_api::{AlarmsQuery, AlarmsView, ApiError, ErrorReply};
use spotreel_bus::names;

use super::api::Api;
use super::problem::Problem;
use super::query::Asked;
use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

/// Monitor answers from memory, in milliseconds; this is for one that is overrun.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

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
    if !caller.may_see_of(None) {
        return Err(error::not_for_owners("alarms").into());
    }
    Ok(Json(api.intake.alarms(&query).await?))
}

impl Intake {
    async fn alarms(&self, query: &AlarmsQuery) -> Result<AlarmsView, ApiError> {
        let question = serde_json::to_vec(query).expect("it has string keys only");
        let request = Request::new()
            .payload(question.into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self.log.client().send_request(names::ALARMS, request).await;
        let answer = answer.map_err(|failure| {
            tracing::warn!(error = %spotreel_domain::chain(&failure), "monitor did not answer a request for alarms: check that spotreel-monitor runs and that NATS has this version's accounts.conf");
            error::unavailable(match failure.kind() {
                RequestErrorKind::NoResponders => {
                    "spotreel-monitor keeps the alarms, and none is running now"
                }
                _ => "spotreel-monitor keeps the alarms, and did not answer in time",
            })
        })?;
        if let Ok(ErrorReply { error }) = serde_json::from_slice(&answer.payload) {
            return Err(error);
        }
        serde_json::from_slice(&answer.payload).map_err(|failure| {
            tracing::warn!(error = %spotreel_domain::chain(&failure), "answer of monitor cannot be decoded: check that both programs have the same version");
            error::unavailable("spotreel-monitor's answer cannot be read: it may be of another version")
        })
    }
}
