//! Requests that EC2 refuses as a whole. Credentials expire, and permissions and templates take minutes to spread. So the
//! request is repeated after longer and longer pauses, and only repeated refusals end the batch.

use std::time::Duration;

use jiff::Timestamp;

use super::cloud::{ErrorClass, Place, PlaceError};
use super::policy::Patience;
use crate::batch::{Batch, Launch, LaunchState};
use crate::time::elapsed;

/// Minimum number of refusals in a row that are final: fewer may have a cause that passes.
const LEAST: usize = 3;

/// The error, if an answer without instances is about the whole request. `None`: other capacity pools may have instances.
pub(super) fn of_whole_request(
    batch: &Batch,
    seq: u32,
    errors: &[PlaceError],
) -> Option<PlaceError> {
    let first = errors.first()?;
    if errors.iter().any(|e| e.class != ErrorClass::Configuration) {
        return None;
    }
    let is_refused = |place: &Place| errors.iter().any(|e| e.place.as_ref() == Some(place));
    let all_are = || {
        let request = batch.launch(seq).and_then(Launch::frozen_request);
        request.is_none_or(|r| r.overrides.iter().all(|one| is_refused(&one.place)))
    };
    let whole = errors.iter().any(|error| error.place.is_none()) || all_are();
    whole.then(|| PlaceError {
        place: None,
        ..first.clone()
    })
}

/// How long to wait after the newest refusal.
pub(super) fn pause(batch: &Batch, patience: &Patience) -> Duration {
    let times = u32::try_from(in_a_row(batch).count()).unwrap_or(u32::MAX);
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    let pause = patience.throttled.saturating_mul(doubled);
    // A third, so that there are a few more tries before it is final.
    pause.min(patience.refused / 3)
}

/// Why nothing can be launched for this batch any more. While instances run, refusals are not final.
pub(super) fn are_final(batch: &Batch, patience: &Patience) -> Option<String> {
    let (last, error) = in_a_row(batch).next()?;
    let (first, _) = in_a_row(batch).last()?;
    let times = in_a_row(batch).count();
    let lasted = elapsed(first, last);
    let runs = batch.instances.iter().any(|i| !i.is_gone());
    let is_final = times >= LEAST && lasted >= patience.refused && !runs;
    is_final.then(|| {
        let PlaceError { code, message, .. } = error;
        let minutes = lasted.as_secs() / 60;
        format!("EC2 refused the request {times} times in {minutes} minutes: {code}: {message}")
    })
}

/// The refusals since the last launch with another result, the newest first.
fn in_a_row(batch: &Batch) -> impl Iterator<Item = (Timestamp, &PlaceError)> {
    let states = batch.launches.iter().rev().map(|launch| &launch.state);
    let in_a_row = states.map_while(|state| match state {
        LaunchState::Rejected { at, error } => {
            Some((error.class == ErrorClass::Configuration).then_some((*at, error)))
        }
        LaunchState::Unanswered { .. } => Some(None),
        LaunchState::Answered { .. } | LaunchState::Closed { .. } => None,
    });
    in_a_row.flatten()
}
