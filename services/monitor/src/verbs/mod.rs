//! Answers to requests.

pub mod search;
