//! Tasks and batches into rows, with the place in their log, in one commit.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, ToSql, Transaction, named_params, params};
use spotreel_domain::batch::BatchId;
use spotreel_domain::task::State;
use spotreel_domain::{Owner, Task};

use crate::error::ProjectionError;
use crate::file::Index;
use crate::text;

const HOUR_MS: i64 = 3_600_000;

/// How far a log was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMark {
    /// Of the last message that was read; 0: none.
    pub sequence: u64,
    /// When the server stored it: another message of the same sequence is another log's.
    pub stored_ns: i64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub tasks: u64,
    pub bytes: u64,
}

/// What a task's row had before.
struct Known {
    n: i64,
    sequence: i64,
    labels: String,
    instances: Vec<String>,
}

impl Index {
    /// How far the log of this name was read. None: it was another log, with another identity.
    pub fn mark(&mut self, log: &str, identity: &str) -> Result<Option<LogMark>, ProjectionError> {
        let known = self
            .db
            .prepare_cached("SELECT identity, sequence, stored_ns FROM log WHERE name = ?1")?
            .query_row([log], |row| {
                let mark = LogMark {
                    sequence: row.get::<_, i64>(1)?.unsigned_abs(),
                    stored_ns: row.get(2)?,
                };
                Ok((row.get::<_, String>(0)?, mark))
            })
            .optional()?;
        match known {
            Some((known, mark)) => Ok((known == identity).then_some(mark)),
            None => {
                let begin =
                    "INSERT INTO log (name, identity, sequence, stored_ns) VALUES (?1, ?2, 0, 0)";
                self.db.execute(begin, [log, identity])?;
                Ok(Some(LogMark::default()))
            }
        }
    }

    /// Takes over what the log says up to `mark`: the states of tasks, each with the sequence of its event, in the log's order.
    pub fn apply_tasks(
        &mut self,
        log: &str,
        states: Vec<(u64, Task)>,
        mark: LogMark,
    ) -> Result<(), ProjectionError> {
        // Only the newest state of each stays.
        let mut newest = BTreeMap::new();
        for (sequence, task) in states {
            newest.insert(task.id.clone(), (sequence, task));
        }
        let mut newest: Vec<_> = newest.into_values().collect();
        newest.sort_unstable_by_key(|(sequence, _)| *sequence);
        let mut tasks = self.tasks;
        let change = self.db.transaction()?;
        for (sequence, task) in &newest {
            tasks = tasks.saturating_add_signed(apply(&change, *sequence, task)?);
        }
        move_to(&change, log, mark)?;
        change.commit()?;
        self.tasks = tasks;
        Ok(())
    }

    /// Takes over the instances of batches.
    pub fn apply_batches(
        &mut self,
        batches: &[(BatchId, Vec<String>)],
        read: Option<(&str, LogMark)>,
    ) -> Result<(), ProjectionError> {
        let change = self.db.transaction()?;
        {
            let mut put = change.prepare_cached(
                "INSERT INTO machine (instance, batch) VALUES (?1, ?2)
                 ON CONFLICT (instance) DO UPDATE SET batch = excluded.batch WHERE batch <> excluded.batch",
            )?;
            for (batch, instances) in batches {
                for instance in instances {
                    put.execute(params![instance, batch.to_string()])?;
                }
            }
        }
        if let Some((log, mark)) = read {
            move_to(&change, log, mark)?;
        }
        change.commit()?;
        Ok(())
    }

    /// The sequences, from this one on, of the newest events of tasks that have ended, in the log's order.
    pub fn ended_from(&self, sequence: u64, limit: usize) -> Result<Vec<u64>, ProjectionError> {
        let sql = "SELECT sequence FROM task INDEXED BY task_ended WHERE ended AND sequence >= ?1
                   ORDER BY sequence LIMIT ?2";
        let mut rows = self.db.prepare_cached(sql)?;
        let (sequence, limit) = (signed(sequence), signed(limit as u64));
        let found = rows.query_map([sequence, limit], |row| row.get::<_, i64>(0))?;
        Ok(found
            .map(|sequence| sequence.map(i64::unsigned_abs))
            .collect::<Result<_, _>>()?)
    }

    /// Removes the tasks that have ended with these events. Returns how many there were.
    pub fn remove(&mut self, ends: &[u64]) -> Result<u64, ProjectionError> {
        let change = self.db.transaction()?;
        let mut removed = 0;
        for end in ends {
            if let Some(known) = known(&change, "ended AND sequence = ?1", &signed(*end))? {
                remove(&change, &known)?;
                removed += 1;
            }
        }
        // Of tasks that are gone; what is left of a time is only a bound.
        let sql = "DELETE FROM hour WHERE last < coalesce((SELECT min(n) FROM task), last + 1)";
        change.execute(sql, [])?;
        change.commit()?;
        self.tasks = self.tasks.saturating_sub(removed);
        Ok(removed)
    }

    pub fn size(&self) -> Result<Size, ProjectionError> {
        let number = |pragma: &str| {
            self.db
                .query_row(pragma, [], |row| row.get::<_, i64>(0))
                .map(i64::unsigned_abs)
        };
        Ok(Size {
            tasks: self.tasks,
            bytes: number("PRAGMA page_count")? * number("PRAGMA page_size")?,
        })
    }
}

/// By how many the tasks become more.
fn apply(change: &Transaction<'_>, sequence: u64, task: &Task) -> Result<i64, ProjectionError> {
    let known = known(change, "id = ?1", &task.id.as_str())?;
    let n = match (&known, task.born) {
        // Tasks of an older version do not say when they began.
        (Some(known), 0) => known.n,
        (None, 0) => signed(task.entry.max(1)),
        (_, born) => signed(born),
    };
    let mut more = 0;
    let known = match known {
        Some(known) if known.sequence >= signed(sequence) => return Ok(0),
        Some(known) if known.n == n => Some(known),
        Some(other_life) => {
            remove(change, &other_life)?;
            more -= 1;
            None
        }
        None => None,
    };
    let before = known.as_ref().map(|known| known.instances.clone());
    let mut instances = before.unwrap_or_default();
    for attempt in &task.attempts {
        // The newest is the last one.
        instances.retain(|instance| *instance != attempt.instance);
        instances.push(attempt.instance.clone());
    }
    if known.is_none() {
        insert(change, n, task)?;
        more += 1;
    }
    let error = match &task.state {
        State::Failed { error } => Some(json(error)),
        _ => None,
    };
    change
        .prepare_cached(
            "UPDATE task SET sequence = :sequence, state = :state, ended = :ended, at = :at, error = :error,
             instances = :instances WHERE n = :n",
        )?
        .execute(named_params! {
            ":n": n, ":sequence": signed(sequence), ":state": task.state.name(), ":ended": task.is_terminal(),
            ":at": task.at.as_millisecond(), ":error": error, ":instances": json(&instances),
        })?;
    let mut attempt =
        change.prepare_cached("INSERT OR IGNORE INTO attempt (instance, n) VALUES (?1, ?2)")?;
    for instance in &instances {
        attempt.execute(params![instance, n])?;
    }
    Ok(more)
}

/// What never changes in a task's life.
fn insert(change: &Transaction<'_>, n: i64, task: &Task) -> Result<(), ProjectionError> {
    let spec = &task.spec;
    let submitted = task.submitted_at.as_millisecond();
    change
        .prepare_cached(
            "INSERT INTO task (n, id, sequence, owner, state, ended, model, submitted, at, prompt, labels, instances)
             VALUES (:n, :id, 0, :owner, '', 0, :model, :submitted, 0, :prompt, :labels, '[]')",
        )?
        .execute(named_params! {
            ":n": n, ":id": task.id.as_str(), ":owner": task.owner.as_ref().map(Owner::as_str),
            ":model": spec.model.as_str(), ":submitted": submitted, ":prompt": spec.prompt,
            ":labels": json(&spec.labels),
        })?;
    change
        .prepare_cached("INSERT INTO prompt (rowid, text) VALUES (?1, ?2)")?
        .execute(params![n, text::indexed(&spec.prompt)])?;
    let mut label =
        change.prepare_cached("INSERT OR IGNORE INTO label (label, n) VALUES (?1, ?2)")?;
    for name in label_names(&spec.labels) {
        label.execute(params![name, n])?;
    }
    change
        .prepare_cached(
            "INSERT INTO hour (hour, first, last) VALUES (?1, ?2, ?2) ON CONFLICT (hour)
             DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)",
        )?
        .execute([hour(submitted), n])?;
    Ok(())
}

fn remove(change: &Transaction<'_>, known: &Known) -> Result<(), ProjectionError> {
    let n = known.n;
    let labels: BTreeMap<String, String> =
        serde_json::from_str(&known.labels).map_err(unreadable)?;
    let mut label = change.prepare_cached("DELETE FROM label WHERE label = ?1 AND n = ?2")?;
    for name in label_names(&labels) {
        label.execute(params![name, n])?;
    }
    let mut attempt =
        change.prepare_cached("DELETE FROM attempt WHERE instance = ?1 AND n = ?2")?;
    for instance in &known.instances {
        attempt.execute(params![instance, n])?;
    }
    for table in [
        "DELETE FROM prompt WHERE rowid = ?1",
        "DELETE FROM task WHERE n = ?1",
    ] {
        change.prepare_cached(table)?.execute([n])?;
    }
    Ok(())
}

/// The row that a condition with one parameter names.
fn known(
    change: &Transaction<'_>,
    condition: &str,
    named: &dyn ToSql,
) -> Result<Option<Known>, ProjectionError> {
    let sql = format!("SELECT n, sequence, labels, instances FROM task WHERE {condition}");
    let mut rows = change.prepare_cached(&sql)?;
    let known = rows.query_row([named], |row| {
        Ok(Known {
            n: row.get(0)?,
            sequence: row.get(1)?,
            labels: row.get(2)?,
            instances: serde_json::from_str(row.get_ref(3)?.as_str()?).map_err(unreadable)?,
        })
    });
    Ok(known.optional()?)
}

fn move_to(change: &Transaction<'_>, log: &str, mark: LogMark) -> Result<(), ProjectionError> {
    change
        .prepare_cached("UPDATE log SET sequence = ?2, stored_ns = ?3 WHERE name = ?1")?
        .execute(params![log, signed(mark.sequence), mark.stored_ns])?;
    Ok(())
}

/// As a search names a label: by its key, and by key and value.
fn label_names(labels: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    labels
        .iter()
        .flat_map(|(key, value)| [key.clone(), format!("{key}={value}")])
}

pub(crate) fn hour(milliseconds: i64) -> i64 {
    milliseconds.div_euclid(HOUR_MS)
}

/// Sequences are far below the largest; a search may name any.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unreadable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("it has string keys only")
}
