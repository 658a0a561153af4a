//! What can go wrong with the file.

use std::path::PathBuf;

use rusqlite::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    #[error("the search file {} cannot be opened", path.display())]
    Open {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error(
        "another program uses the search file {}: give each program a file of its own",
        .0.display()
    )]
    InUse(PathBuf),
    #[error("the search file {} cannot be removed", path.display())]
    Remove {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is thrown away; the next call works on an empty one.
    #[error("the search file is damaged")]
    Damaged(#[source] rusqlite::Error),
    #[error("the disk of the search file is full")]
    Full(#[source] rusqlite::Error),
    #[error("the search file cannot be used now")]
    Sql(#[source] rusqlite::Error),
    #[error("the thread of the search file has ended")]
    Ended,
}

impl From<rusqlite::Error> for ProjectionError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match &error {
            E::SqliteFailure(failure, _) => match failure.code {
                // Two tasks with one number, for example: no log says that.
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation => Self::Damaged(error),
                ErrorCode::DiskFull => Self::Full(error),
                _ => Self::Sql(error),
            },
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => Self::Damaged(error),
            _ => Self::Sql(error),
        }
    }
}
