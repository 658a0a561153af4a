//! The verbs that monitor answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::search::Search;
use crate::verbs;

/// People and pages ask; more than this at a time wait.
const AT_ONCE: usize = 64;
/// Requests are small.
const MEMORY_MIB: usize = 16;

/// What the handlers of requests share.
pub(crate) struct Requests {
    /// None: switched off, and another monitor answers.
    pub search: Option<Search>,
}

pub(crate) fn verbs(requests: &Arc<Requests>) -> Service<Requests> {
    let description = "searches";
    let room = Room::new(AT_ONCE, MEMORY_MIB);
    let service = Service::new("monitor", description, requests, room);
    match requests.search {
        Some(_) => service.verb("search", names::SEARCH, verbs::search::search),
        None => service,
    }
}
