//! Answers to requests, one file for each verb.

pub mod alarms;
pub mod costs;
pub mod receipt;
pub mod search;

use std::sync::Arc;
use std::time::Duration;

use spotreel_bus::TaskLog;

use crate::alarms::ShownAlarms;
use crate::ledger::books::Books;
use crate::search::Search;

/// What the handlers of requests share.
pub struct Requests {
    pub alarms: ShownAlarms,
    /// Between two looks at them.
    pub alarms_every: Duration,
    pub log: TaskLog,
    pub books: Arc<Books>,
    /// None: switched off, and another monitor answers.
    pub search: Option<Search>,
}
