//! What the handlers of requests share.

use std::sync::Arc;

use spotreel_bus::TaskLog;

use crate::ledger::books::Books;

pub struct Requests {
    pub log: TaskLog,
    pub books: Arc<Books>,
}
