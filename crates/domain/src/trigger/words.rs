//! Formats numbers and times in sentences.

use std::time::Duration;

use humantime_serde::re::humantime;
use jiff::Timestamp;

pub(super) fn tasks(count: u64) -> String {
    if count == 1 {
        "1 task".to_owned()
    } else {
        format!("{count} tasks")
    }
}

pub(super) fn units(count: u32) -> String {
    if count == 1 {
        "1 unit".to_owned()
    } else {
        format!("{count} units")
    }
}

/// "1h 5m": rounded up, to seconds below an hour and to minutes above, so that what is still missing never reads as 0s.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_nanos().div_ceil(1_000_000_000);
    let seconds = if seconds > 3_600 {
        seconds.div_ceil(60) * 60
    } else {
        seconds
    };
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// To the second: nobody plans by nanoseconds.
pub(super) fn moment(at: Timestamp) -> String {
    format!("{at:.0}")
}
