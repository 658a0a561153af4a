//! Answers to requests, one file for each verb.

pub mod alarms;

use crate::alarms::ShownAlarms;

/// What the handlers of requests share.
pub struct Requests {
    pub alarms: ShownAlarms,
}
