//! What every request works with, whichever API it came by.

use std::sync::Arc;

use spotreel_bus::TaskLog;
use spotreel_domain::webhook::AllowedHosts;

use crate::images::Images;
use crate::submit::commit::Committer;
use crate::submit::limits::QueueLimits;
use crate::submit::offers::Offers;
use crate::tasks::progress::Board;

/// The parts that requests share. The methods are in `submit/`, `tasks/` and `http/quotes.rs`.
#[derive(Clone)]
pub struct Intake {
    pub log: TaskLog,
    pub committer: Committer,
    pub images: Images,
    pub limits: Arc<QueueLimits>,
    pub offers: Offers,
    pub progress: Board,
    /// Hosts of a `callback_url` that are not public.
    pub callback_hosts: AllowedHosts,
}
