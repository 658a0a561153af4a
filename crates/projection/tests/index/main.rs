//! The rows, the pages, and what becomes of the file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod file;
mod pages;
mod search;
mod world;
