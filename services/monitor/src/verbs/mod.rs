//! Answers to requests, one file for each verb.

pub mod alarms;
pub mod search;

use crate::alarms::ShownAlarms;
use crate::search::Search;

/// What the handlers of requests share.
pub struct Requests {
    pub alarms: ShownAlarms,
    /// None: switched off, and another monitor answers.
    pub search: Option<Search>,
}
