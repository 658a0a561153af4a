//! `spotreel.alarms`.

use std::sync::Arc;

use spotreel_api::{AlarmsQuery, AlarmsView, ApiError};

use super::Requests;

pub async fn show(requests: Arc<Requests>, query: AlarmsQuery) -> Result<AlarmsView, ApiError> {
    let board = requests.alarms.borrow();
    Ok(AlarmsView::of(
        board.as_ref(),
        requests.alarms_every,
        &query,
    ))
}
