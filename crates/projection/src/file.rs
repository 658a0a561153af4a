//! The file: opened, recognised, and thrown away where it is of no use.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::ProjectionError;

/// Raised with every change of the tables or of what is written into them.
const VERSION: i32 = 1;
/// "spSE" in the file's header: the file is ours.
const APPLICATION_ID: i32 = 0x7370_5345;
/// Where SQLite's header has it, and the header's first bytes.
const APPLICATION_ID_AT: usize = 68;
const MAGIC: &[u8] = b"SQLite format 3\0";
/// The program before this one may still be ending.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// Read pages stay in 32 MiB; a commit that a power cut takes away is read from the logs again, so none waits for the disk.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA cache_size = -32768;
    PRAGMA temp_store = MEMORY;
    PRAGMA journal_size_limit = 16777216;
";

/// `n` is the sequence of the task's first event, `sequence` that of its newest. Times are in milliseconds since 1970.
/// An index ends with `n` by itself. Hours tell where in the order of `n` a time lies. Only ended tasks leave the log.
const TABLES: &str = "
    CREATE TABLE log (
        name TEXT PRIMARY KEY, identity TEXT NOT NULL, sequence INTEGER NOT NULL, stored_ns INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE task (
        n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL, owner TEXT, state TEXT NOT NULL,
        ended INTEGER NOT NULL, model TEXT NOT NULL, submitted INTEGER NOT NULL, at INTEGER NOT NULL,
        prompt TEXT NOT NULL, labels TEXT NOT NULL, error TEXT, instances TEXT NOT NULL
    ) STRICT;
    CREATE INDEX task_owner ON task (owner) WHERE owner IS NOT NULL;
    CREATE INDEX task_state ON task (state);
    CREATE INDEX task_owner_state ON task (owner || ' ' || state) WHERE owner IS NOT NULL;
    CREATE INDEX task_model ON task (model);
    CREATE INDEX task_ended ON task (sequence) WHERE ended;
    CREATE TABLE label (label TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (label, n)) STRICT, WITHOUT ROWID;
    CREATE TABLE attempt (instance TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (instance, n)) STRICT, WITHOUT ROWID;
    CREATE TABLE machine (instance TEXT PRIMARY KEY, batch TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX machine_batch ON machine (batch);
    CREATE TABLE hour (hour INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
    CREATE VIRTUAL TABLE prompt USING fts5 (
        text, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
    );
";

/// The open file. What works on it is in `rows.rs` and `search.rs`.
pub struct Index {
    pub(crate) db: Connection,
    /// Kept, for counting a million rows takes time.
    pub(crate) tasks: u64,
}

impl Index {
    /// Opens the file, or makes it. One that is damaged or of another version is made anew.
    pub fn open(path: &Path) -> Result<Self, ProjectionError> {
        match Self::try_open(path) {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Self::anew(path, "it is of another version"),
            Err(ProjectionError::Damaged(error)) => {
                Self::anew(path, &format!("it is damaged ({error})"))
            }
            Err(error) => Err(error),
        }
    }

    /// Throws the file away and makes an empty one.
    pub fn anew(path: &Path, reason: &str) -> Result<Self, ProjectionError> {
        tracing::warn!(
            path = %path.display(),
            reason,
            "search file thrown away; it is built anew from the logs"
        );
        throw_away(path)?;
        let made = Self::try_open(path)?;
        Ok(made.expect("a file that is made here is of this version"))
    }

    /// None: the file is of another version.
    fn try_open(path: &Path) -> Result<Option<Self>, ProjectionError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let unopened = |source| ProjectionError::Open {
            path: path.to_owned(),
            source,
        };
        let db = Connection::open_with_flags(path, flags).map_err(unopened)?;
        let in_use = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                ProjectionError::InUse(path.to_owned())
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                unopened(error)
            }
            _ => error.into(),
        };
        db.busy_timeout(BUSY_FOR)?;
        // Until the file is closed: a second program is refused, and no memory is shared with one.
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;")
            .map_err(in_use)?;
        let number = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, i32>(0));
        let is_new = db.query_row("SELECT count(*) FROM sqlite_master", [], |row| {
            row.get::<_, i64>(0)
        })? == 0;
        if is_new {
            // Before the write-ahead log: what tells the file as ours is in it from the first commit on.
            db.execute_batch(&format!(
                "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
            ))
            .map_err(in_use)?;
        }
        let known = (
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
        );
        if known != (APPLICATION_ID, VERSION) {
            return Ok(None);
        }
        db.execute_batch(SETTINGS)?;
        let tasks = db.query_row("SELECT count(*) FROM task", [], |row| row.get::<_, i64>(0))?;
        Ok(Some(Self {
            db,
            tasks: tasks.unsigned_abs(),
        }))
    }
}

/// Removes a file of ours. Any other is only put aside: the path may be a mistake.
fn throw_away(path: &Path) -> Result<(), ProjectionError> {
    let moved = match is_ours(path) {
        true => std::fs::remove_file(path),
        false => std::fs::rename(path, beside(path, ".unreadable")),
    };
    let none = |done: std::io::Result<()>| match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    };
    // After the file itself: SQLite removes the log of a file that is not there.
    let logs = ["-wal", "-shm", "-journal"].map(|end| beside(path, end));
    none(moved)
        .and_then(|()| {
            logs.iter()
                .try_for_each(|log| none(std::fs::remove_file(log)))
        })
        .map_err(|source| ProjectionError::Remove {
            path: path.to_owned(),
            source,
        })
}

fn is_ours(path: &Path) -> bool {
    let mut header = [0; APPLICATION_ID_AT + 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok()
        && header.starts_with(MAGIC)
        && header[APPLICATION_ID_AT..] == APPLICATION_ID.to_be_bytes()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
