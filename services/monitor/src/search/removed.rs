//! Removes the rows of tasks that have left the log: the janitor, of this monitor or of another, deletes the last event of an
//! ended task when it is old or its room is needed.
//!
//! No event says so. But only ended tasks leave, and the oldest ends first: so the oldest ends of the file are looked up in the
//! log, page by page, until a page is whole. One page more a pass goes round through all of them, for deletions by hand.

use std::collections::HashSet;

use spotreel_bus::TaskLog;
use spotreel_bus::jetstream::{self, Start};
use spotreel_bus::names::{EVERY_SUBJECT, TASKS};
use spotreel_projection::Projection;

use crate::error::FollowError;

/// Ends of the file, and messages of the log, of one page.
const PAGE: usize = 500;
/// Pages with gaps that a pass looks at; the next pass goes on.
const PAGES_A_PASS: usize = 100;

pub(super) struct Removed {
    log: TaskLog,
    projection: Projection,
    /// Where the round through all ends goes on.
    round_from: u64,
}

struct Looked {
    removed: u64,
    /// Where the next page begins; none at the end.
    next: Option<u64>,
}

impl Removed {
    pub fn new(log: TaskLog, projection: Projection) -> Self {
        Self {
            log,
            projection,
            round_from: 0,
        }
    }

    pub async fn pass(&mut self) -> Result<u64, FollowError> {
        let (mut removed, mut from) = (0, 0);
        for _ in 0..PAGES_A_PASS {
            let looked = self.look(from).await?;
            removed += looked.removed;
            match looked.next {
                Some(next) if looked.removed > 0 => from = next,
                _ => break,
            }
        }
        let round = self.look(self.round_from).await?;
        self.round_from = round.next.unwrap_or_default();
        removed += round.removed;
        if removed > 0 {
            tracing::debug!(removed, "rows of tasks that have left the log removed");
        }
        Ok(removed)
    }

    /// Removes those of the next ends that the log does not have.
    async fn look(&self, from: u64) -> Result<Looked, FollowError> {
        let ends = self.projection.ended_from(from, PAGE).await?;
        let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
            return Ok(Looked {
                removed: 0,
                next: None,
            });
        };
        let start = Start::Sequence(*first);
        let page = jetstream::page(self.log.client(), TASKS, EVERY_SUBJECT, start, PAGE).await?;
        let mut gone = Vec::new();
        let reach = match page.last() {
            // A replica that is behind lacks only what comes after its last message.
            Some(newest) => {
                let there: HashSet<u64> = page.iter().map(|stored| stored.sequence).collect();
                let judged = ends.iter().take_while(|end| **end <= newest.sequence);
                gone.extend(judged.filter(|end| !there.contains(end)));
                newest.sequence
            }
            // This replica has nothing so late: the leader is asked.
            None => {
                for end in &ends {
                    if !self.log.holds(*end).await? {
                        gone.push(*end);
                    }
                }
                *last
            }
        };
        let is_end = ends.len() < PAGE && *last <= reach;
        let removed = match gone.is_empty() {
            true => 0,
            false => self.projection.remove(gone).await?,
        };
        Ok(Looked {
            removed,
            next: (!is_end).then_some(reach + 1),
        })
    }
}
