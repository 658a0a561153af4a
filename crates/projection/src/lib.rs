//! Tasks as rows of a SQLite file, so that a search answers in milliseconds: filters that are combined at will, words of the
//! prompt, the newest submission first.
//!
//! The file holds nothing that the logs do not have. It keeps how far each log was read, and commits that together with the
//! rows, so that a crash between two commits loses nothing and repeats nothing. A file that is damaged, of another version
//! or of another log is thrown away, and the logs are read again from their beginning. Each program has a file of its own;
//! SQLite refuses a second program.
//!
//! | file | what |
//! |---|---|
//! | `thread` | the thread that owns the file, and the handle that everybody else holds |
//! | `file` | open, recognise, throw away |
//! | `rows` | tasks and batches into rows |
//! | `search` | a page of tasks |
//! | `conditions` | the parts of a search as SQL |
//! | `text` | what of a prompt is indexed, and how words are searched for |
//!
//! Pages are in the order of submission: by the sequence of a task's first event ([`Task::born`]), which never changes. So no
//! task moves between two pages, and two programs with files of their own give the same pages.
//!
//! [`Task::born`]: spotreel_domain::Task::born

mod conditions;
mod error;
mod file;
mod rows;
mod search;
mod text;
mod thread;

pub use error::ProjectionError;
pub use file::Index;
pub use rows::{LogMark, Size};
pub use search::Found;
pub use thread::Projection;
