//! The clients' copy of EVENTS. It is made in their account by the server itself, which says nothing when it stops, so it
//! is compared with the original.

use std::time::Duration;

use async_nats::Client;
use serde::Deserialize;
use spotreel_bootstrap::Health;
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::names::{EVENTS, MIRROR_INFO};
use tokio::time::Instant;

use crate::metrics;

pub(crate) const CHECK: &str = "clients' copy of EVENTS";
/// How long the copy may stand still while events wait for it: longer than a restart of the server, or a change of the
/// leader, takes it out of step.
const STILL_AT_MOST: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
struct CopyInfo {
    state: CopyState,
    mirror: Option<Mirror>,
}

#[derive(Debug, Deserialize)]
struct CopyState {
    last_seq: u64,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    error: Option<MirrorProblem>,
}

#[derive(Debug, Deserialize)]
struct MirrorProblem {
    description: String,
}

pub(crate) struct MirrorWatch {
    client: Client,
    progress: CopyProgress,
    failing: bool,
}

/// How far the copy was when it was last seen to move, and when that was.
#[derive(Default)]
struct CopyProgress(Option<(u64, Instant)>);

impl MirrorWatch {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            progress: CopyProgress::default(),
            failing: false,
        }
    }

    /// Compares copy and original, and sets the health check.
    pub async fn look(&mut self, health: &Health) {
        let found = match self.read().await {
            Ok((original, copy)) => {
                metrics::copy_behind(original.saturating_sub(copy.state.last_seq));
                self.progress.judge(original, &copy, Instant::now())
            }
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), "clients' copy of EVENTS cannot be checked");
                match self.progress.judge_unread(&error, Instant::now()) {
                    Some(reason) => Err(reason),
                    None => return,
                }
            }
        };
        let failing = found.is_err();
        if let (Err(reason), false) = (&found, self.failing) {
            tracing::error!(
                reason,
                "clients' copy of EVENTS is behind: durable consumers of clients receive nothing new"
            );
        }
        self.failing = failing;
        health.set(CHECK, found);
    }

    async fn read(&self) -> Result<(u64, CopyInfo), JetStreamError> {
        // The copy first: the original can only be further then.
        let copy = jetstream::ask(&self.client, MIRROR_INFO).await?;
        let original: CopyInfo = jetstream::stream_info(&self.client, EVENTS).await?;
        Ok((original.state.last_seq, copy))
    }
}

impl CopyProgress {
    fn judge(&mut self, original: u64, copy: &CopyInfo, now: Instant) -> Result<(), String> {
        let at = copy.state.last_seq;
        let behind = original.saturating_sub(at);
        let since = match self.0 {
            Some((before, since)) if before == at && behind > 0 => since,
            _ => now,
        };
        self.0 = Some((at, since));
        let problem = copy
            .mirror
            .as_ref()
            .and_then(|mirror| mirror.error.as_ref());
        let still = now - since;
        match problem {
            Some(problem) => Err(format!(
                "the server reports {:?}; {behind} events are missing",
                problem.description
            )),
            // It asks for what comes behind its own end, and would wait for it in silence.
            None if at > original => Err(format!(
                "the copy is at event {at}, EVENTS at {original}: EVENTS was made anew; delete the copy and run `spotreel provision`"
            )),
            None if still >= STILL_AT_MOST => Err(format!(
                "{behind} events are missing, and none has come for {} s",
                still.as_secs()
            )),
            None => Ok(()),
        }
    }

    /// Nothing is said of a copy that was never there: `spotreel provision` tells, and a deployment without clients of NATS
    /// needs none.
    fn judge_unread(&self, error: &JetStreamError, now: Instant) -> Option<String> {
        let (_, since) = self.0?;
        let silent = now - since;
        (silent >= STILL_AT_MOST).then(|| {
            format!(
                "it could not be looked at for {} s ({error}): run `spotreel provision` if it is gone",
                silent.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(json: &str) -> CopyInfo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_copy_that_stands_still_or_reports_an_error_is_unhealthy() {
        let mut watch = CopyProgress::default();
        let start = Instant::now();
        let at = |last: u64| {
            copy(&format!(
                r#"{{"state":{{"last_seq":{last}}},"mirror":{{"lag":0}}}}"#
            ))
        };
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.judge(10, &at(10), start).is_ok());
        // Quiet for an hour is no fault, nor is one that is behind and moves.
        assert!(watch.judge(10, &at(10), later(3_600)).is_ok());
        assert!(watch.judge(50, &at(20), later(3_610)).is_ok());
        assert!(watch.judge(90, &at(30), later(3_650)).is_ok());
        assert!(watch.judge(95, &at(30), later(3_670)).is_ok());
        let reason = watch.judge(99, &at(30), later(3_690)).unwrap_err();
        assert!(reason.contains("69 events"), "{reason}");
        let ill = r#"{"state":{"last_seq":99},"mirror":{"error":{"err_code":10228,"description":"no flow control"}}}"#;
        let reason = watch.judge(99, &copy(ill), later(3_700)).unwrap_err();
        assert!(reason.contains("no flow control"), "{reason}");
        let reason = watch.judge(3, &at(99), later(3_800)).unwrap_err();
        assert!(reason.contains("made anew"), "{reason}");
    }

    #[test]
    fn a_copy_that_was_there_and_is_gone_is_unhealthy() {
        let mut watch = CopyProgress::default();
        let start = Instant::now();
        let gone = JetStreamError::Refused {
            code: 10_059,
            description: "stream not found".into(),
        };
        assert!(watch.judge_unread(&gone, start).is_none(), "there is none");
        let there = copy(r#"{"state":{"last_seq":5},"mirror":{}}"#);
        assert!(watch.judge(5, &there, start).is_ok());
        assert!(watch.judge_unread(&gone, start).is_none(), "a moment");
        let found = watch.judge_unread(&gone, start + STILL_AT_MOST).unwrap();
        assert!(found.contains("stream not found"));
    }
}
