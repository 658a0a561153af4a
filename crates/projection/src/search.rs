//! A page of tasks.
//!
//! Every condition has two forms: it can *drive*, which names the tasks that fulfil it, newest first, and it can *check* one
//! task. The rarest one drives and the others check, so that a page costs about as many rows as it has, whatever is combined.
//! Where the tasks of a page lie far apart even so, the page ends early, with a cursor to go on.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params_from_iter};
use serde::de::DeserializeOwned;
use spotreel_api::{FoundTask, TaskSearch};

use crate::conditions::{Condition, EVERY_TASK, conditions};
use crate::error::ProjectionError;
use crate::file::Index;
use crate::rows::{hour, signed, unreadable};

/// Tasks that a page looks at, 30 ms or so; then it ends.
const LOOKED_AT: usize = 5_000;
/// The same for words that are all frequent but rarely stand in one prompt: FTS5 looks for such a prompt by itself, in parts
/// of the order that begin with this number of sequences.
const TEXT_TIME: Duration = Duration::from_millis(20);
const FIRST_PART: i64 = 1 << 16;
/// How far each condition is followed to see which one is the rarest.
const PROBED: usize = 500;
/// Of a condition with fewer tasks than this, each task's words are checked; a check costs more than a step of FTS5.
const RARER_THAN_TEXT: usize = 200;
/// A page stays well below the size of a message.
const MOST_BYTES: usize = 1 << 20;

/// One page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    pub tasks: Vec<FoundTask>,
    /// There may be more: the same search with this cursor goes on.
    pub next_cursor: Option<u64>,
}

impl Index {
    /// The next page of a search.
    pub fn search(&self, search: &TaskSearch) -> Result<Found, ProjectionError> {
        let Some((from, before)) = self.bounds(search)? else {
            return Ok(Found::default());
        };
        let mut conditions = conditions(search);
        let driver = self.rarest(&conditions, from, before)?;
        let every = Condition {
            drive: Some(EVERY_TASK),
            check: "",
            value: Value::Null,
            is_text: false,
        };
        let driver = driver.map_or(every, |at| conditions.swap_remove(at));
        Page {
            db: &self.db,
            limit: search.limit,
            checks: &conditions,
            found: Found::default(),
            looked_at: 0,
            bytes: 0,
        }
        .read(&driver, from, before)
    }

    /// The tasks that a search may find lie between these. None: there is none.
    fn bounds(&self, search: &TaskSearch) -> Result<Option<(i64, i64)>, ProjectionError> {
        let sql = "SELECT (SELECT min(n) FROM task), (SELECT max(n) FROM task),
                   (SELECT min(first) FROM hour WHERE hour >= ?1), (SELECT max(last) FROM hour WHERE hour <= ?2)";
        let at =
            |time: Option<Timestamp>, open| time.map_or(open, |time| hour(time.as_millisecond()));
        let hours = [at(search.since, i64::MIN), at(search.until, i64::MAX)];
        let mut ends = self.db.prepare_cached(sql)?;
        let ends: [Option<i64>; 4] = ends.query_row(hours, |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        })?;
        let [Some(oldest), Some(newest), Some(first), Some(last)] = ends else {
            return Ok(None);
        };
        let cursor = search.cursor.map_or(i64::MAX, signed);
        let before = cursor.min(newest.min(last) + 1);
        let from = oldest.max(first);
        Ok((from < before).then_some((from, before)))
    }

    /// The condition that is to drive. None: there is none that could.
    fn rarest(
        &self,
        conditions: &[Condition],
        from: i64,
        before: i64,
    ) -> Result<Option<usize>, ProjectionError> {
        let text = conditions.iter().position(|one| one.is_text);
        let others = conditions
            .iter()
            .enumerate()
            .filter(|(_, one)| !one.is_text && one.drive.is_some());
        let others: Vec<_> = others.collect();
        if let ([(only, _)], None) = (others.as_slice(), text) {
            return Ok(Some(*only));
        }
        let mut best: Option<(usize, Probe)> = None;
        for (at, condition) in others {
            let probe = self.probe(condition, from, before)?;
            if best.as_ref().is_none_or(|(_, known)| probe < *known) {
                best = Some((at, probe));
            }
        }
        let few = |probe| matches!(probe, Probe::All(number) if number < RARER_THAN_TEXT);
        Ok(match (best, text) {
            (Some((at, probe)), text) if text.is_none() || few(probe) => Some(at),
            (_, text) => text,
        })
    }

    fn probe(
        &self,
        condition: &Condition,
        from: i64,
        before: i64,
    ) -> Result<Probe, ProjectionError> {
        let mut driven = self
            .db
            .prepare_cached(condition.drive.unwrap_or(EVERY_TASK))?;
        let mut rows = driven.query(named_params! {
            ":from": from, ":before": before, ":value": condition.value,
        })?;
        let mut number = 0;
        while let Some(row) = rows.next()? {
            number += 1;
            if number == PROBED {
                return Ok(Probe::Down(row.get(0)?));
            }
        }
        Ok(Probe::All(number))
    }
}

/// What the first [`PROBED`] tasks of a condition say of it. The smallest is the rarest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Probe {
    /// There are no more than these.
    All(usize),
    /// They reach down to this task.
    Down(i64),
}

/// A page while it is read.
struct Page<'a> {
    db: &'a Connection,
    limit: usize,
    checks: &'a [Condition],
    found: Found,
    looked_at: usize,
    bytes: usize,
}

impl Page<'_> {
    fn read(
        mut self,
        driver: &Condition,
        from: i64,
        before: i64,
    ) -> Result<Found, ProjectionError> {
        let (began, mut part, mut end) = (Instant::now(), FIRST_PART, before);
        loop {
            let start = match driver.is_text {
                true => end.saturating_sub(part).max(from),
                false => from,
            };
            if self.read_part(driver, start, end)? || start == from {
                return Ok(self.found);
            }
            if began.elapsed() >= TEXT_TIME {
                self.found.next_cursor = Some(start.unsigned_abs());
                return Ok(self.found);
            }
            // Nothing is known of how much FTS5 goes through but its time.
            if began.elapsed() < TEXT_TIME / 4 {
                part *= 2;
            }
            end = start;
        }
    }

    /// True: the page is over.
    fn read_part(
        &mut self,
        driver: &Condition,
        from: i64,
        before: i64,
    ) -> Result<bool, ProjectionError> {
        let mut driven = self.db.prepare_cached(driver.drive.unwrap_or(EVERY_TASK))?;
        let mut rows = driven.query(named_params! {
            ":from": from, ":before": before, ":value": driver.value,
        })?;
        let sql: String = std::iter::once(TASK)
            .chain(self.checks.iter().flat_map(|one| [" AND ", one.check]))
            .collect();
        let mut tasks = self.db.prepare_cached(&sql)?;
        while let Some(row) = rows.next()? {
            let n: i64 = row.get(0)?;
            let values = std::iter::once(Value::Integer(n))
                .chain(self.checks.iter().map(|one| one.value.clone()));
            let task = tasks
                .query_row(params_from_iter(values), found)
                .optional()?;
            self.looked_at += 1;
            if let Some(task) = task {
                if self.found.tasks.len() == self.limit {
                    return Ok(true);
                }
                self.bytes += bytes(&task);
                self.found.tasks.push(task);
                // Kept where the page turns out to be full, or too much was looked at.
                self.found.next_cursor = Some(n.unsigned_abs());
                if self.bytes >= MOST_BYTES {
                    return Ok(true);
                }
            }
            if self.looked_at >= LOOKED_AT {
                self.found.next_cursor = Some(n.unsigned_abs());
                return Ok(true);
            }
        }
        self.found.next_cursor = None;
        Ok(false)
    }
}

const TASK: &str = "
    SELECT t.id, t.owner, t.state, t.model, m.batch, t.prompt, t.labels, t.submitted, t.at, t.error
    FROM task t LEFT JOIN machine m ON m.instance = t.instances ->> '$[#-1]' WHERE t.n = ?";

fn found(row: &Row<'_>) -> rusqlite::Result<FoundTask> {
    Ok(FoundTask {
        id: word(row, 0)?,
        owner: word(row, 1)?,
        state: row.get(2)?,
        model: word(row, 3)?,
        batch: word(row, 4)?,
        prompt: row.get(5)?,
        labels: json(row, 6)?,
        submitted_at: time(row, 7)?,
        at: time(row, 8)?,
        error: json(row, 9)?,
    })
}

/// A name that domain and API know as a type.
fn word<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: Option<String> = row.get(at)?;
    serde_json::from_value(text.into()).map_err(unreadable)
}

fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: Option<String> = row.get(at)?;
    serde_json::from_str(text.as_deref().unwrap_or("null")).map_err(unreadable)
}

fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    let milliseconds = row.get(at)?;
    Timestamp::from_millisecond(milliseconds)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, milliseconds))
}

fn bytes(task: &FoundTask) -> usize {
    /// Of ids, names and times.
    const REST: usize = 400;
    let labels = task.labels.iter();
    let labels: usize = labels.map(|(key, value)| key.len() + value.len()).sum();
    let error = task.error.as_ref().map_or(0, |error| error.message.len());
    REST + task.prompt.len() + labels + error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_condition_drives() {
        assert!(Probe::All(3) < Probe::All(4));
        assert!(Probe::All(499) < Probe::Down(1));
        assert!(Probe::Down(10) < Probe::Down(11), "it reaches further down");
    }
}
