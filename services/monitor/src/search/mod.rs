//! Answers searches from a file with a row for each task ([`spotreel_projection`]), which follows the task log.
//!
//! Each monitor has a file of its own and reads the log by itself, page by page from where its file is: the place stands in
//! the file, so the server keeps nothing for a monitor, and no crash can put the two out of step. A lost file costs only the
//! time to read the log again; until then this monitor refuses searches, and `/readyz` says so.

mod follow;
mod removed;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use parking_lot::Mutex;
use spotreel_api::{ApiError, ErrorCode, SearchPage, SearchQuery};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::reply::{refuse, unavailable};
use spotreel_projection::{Projection, ProjectionError};
use tempfile::TempDir;

use crate::config::SearchConfig;
use crate::error::StartError;
use follow::Follower;

const CHECK: &str = "search";
/// An answer that lacks more than the last minute would pass for a whole one.
const OLDEST_ANSWER: Duration = Duration::from_secs(60);
/// While the log is read again.
const RETRY_AFTER_S: u64 = 5;
const FILE: &str = "search.db";

#[derive(Clone)]
pub(crate) struct Search {
    projection: Projection,
    progress: Progress,
}

/// How far the rows are.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<ReadTo>>);

#[derive(Clone, Copy, Debug, Default)]
struct ReadTo {
    /// All changes up to this time are in the rows. None: nothing is known yet.
    as_of: Option<Timestamp>,
    /// Messages of the log that were not read yet.
    behind: u64,
}

impl Search {
    /// Begins to follow the log. None: searches are switched off.
    pub async fn start(
        nats: &Client,
        config: &SearchConfig,
        ctx: &Context,
    ) -> Result<Option<Self>, StartError> {
        if !config.enabled {
            return Ok(None);
        }
        ctx.health.expect(CHECK);
        let (path, dir) = match &config.path {
            Some(path) => (path.clone(), None),
            None => {
                let dir = TempDir::with_prefix("spotreel-search-");
                let dir = dir.map_err(StartError::SearchFile)?;
                (dir.path().join(FILE), Some(dir))
            }
        };
        let search = Self {
            projection: Projection::start(&path).map_err(StartError::SearchFile)?,
            progress: Progress::default(),
        };
        let follower = Follower::new(nats, &search, config, ctx).await;
        ctx.spawn_loop("search", async move {
            follower.run().await;
            drop(dir);
        });
        Ok(Some(search))
    }

    pub async fn page(&self, query: &SearchQuery) -> Result<SearchPage, ApiError> {
        let search = query.check().map_err(|violations| ApiError {
            message: violations[0].message.clone(),
            violations,
            ..refuse(ErrorCode::Invalid, "")
        })?;
        let as_of = self.progress.whole_at(ambient::now())?;
        let found = self.projection.search(search).await.map_err(|error| {
            if matches!(error, ProjectionError::Damaged(_)) {
                self.progress.forget();
            }
            unavailable("the search file", &error)
        })?;
        Ok(SearchPage {
            tasks: found.tasks,
            next_cursor: found.next_cursor,
            as_of,
        })
    }
}

impl Progress {
    fn set(&self, as_of: Option<Timestamp>, behind: u64) {
        let mut read_to = self.0.lock();
        // Another replica of the log may be a little behind the one before.
        read_to.as_of = read_to.as_of.max(as_of);
        read_to.behind = behind;
    }

    /// The file was thrown away.
    fn forget(&self) {
        *self.0.lock() = ReadTo::default();
    }

    /// Up to when an answer at `now` is whole; refused where that is too long ago.
    fn whole_at(&self, now: Timestamp) -> Result<Timestamp, ApiError> {
        let ReadTo { as_of, behind } = *self.0.lock();
        let is_fresh = |as_of: &Timestamp| {
            let age = Duration::try_from(now.duration_since(*as_of)).unwrap_or_default();
            age <= OLDEST_ANSWER
        };
        as_of.filter(is_fresh).ok_or_else(|| {
            let message = format!(
                "the task log is still being read for searches, {behind} events are left: search again a little later"
            );
            ApiError {
                retry_after_s: Some(RETRY_AFTER_S),
                ..refuse(ErrorCode::Unavailable, message)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn an_answer_that_lacks_more_than_a_minute_is_refused() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ago = |seconds| Some(now - SignedDuration::from_secs(seconds));
        let progress = Progress::default();
        assert_eq!(
            progress.whole_at(now).unwrap_err().code,
            ErrorCode::Unavailable
        );
        progress.set(ago(61), 700);
        let refused = progress.whole_at(now).unwrap_err();
        assert!(
            refused.message.contains("700 events"),
            "{}",
            refused.message
        );
        progress.set(ago(60), 1);
        assert_eq!(progress.whole_at(now).ok(), ago(60));
        progress.set(ago(90), 1);
        assert_eq!(progress.whole_at(now).ok(), ago(60), "it does not go back");
        progress.forget();
        assert!(progress.whole_at(now).is_err());
    }
}
