//! Messages that no version can decode. Readers pass over them, and each is logged once.
//!
//! An event that a newer version wrote is not one of them: it waits for a reader that knows it.

use std::collections::BTreeSet;
use std::error::Error;

use parking_lot::Mutex;

use crate::append::ReadError;

/// Number of messages that are remembered as logged.
const MOST: usize = 1_000;

static LOGGED: Mutex<BTreeSet<(&'static str, u64)>> = Mutex::new(BTreeSet::new());

/// What was read; none for an event that no version can decode.
pub fn or_pass_over<T>(
    stream: &'static str,
    read: Result<T, ReadError>,
) -> Result<Option<T>, ReadError> {
    match read {
        Err(error) if error.is_newer_version() => Err(error),
        Err(error @ ReadError::Decode { sequence, .. }) => {
            pass_over(stream, sequence, &error);
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Logs that readers go on without this message.
pub(crate) fn pass_over(stream: &'static str, sequence: u64, error: &(dyn Error + 'static)) {
    let mut logged = LOGGED.lock();
    if logged.len() == MOST {
        logged.clear();
    }
    if logged.insert((stream, sequence)) {
        let error = spotreel_domain::chain(error);
        tracing::error!(
            error,
            stream,
            sequence,
            "message cannot be decoded; readers pass over it"
        );
    }
}
