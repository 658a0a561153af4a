//! Answers to requests, one file for each verb.

pub mod costs;
pub mod receipt;
