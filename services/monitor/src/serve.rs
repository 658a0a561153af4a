//! The verbs that monitor answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::verbs::{self, Requests};

/// People, pages and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 64;
/// Of large requests, none of which is a good one: twice what one message may have.
const MEMORY_MIB: usize = 18;

pub fn verbs(requests: &Arc<Requests>) -> Service<Requests> {
    let room = Room::new(AT_ONCE, MEMORY_MIB);
    let description = "what was seen of the system, and what it cost";
    let service = Service::new("monitor", description, requests, room)
        .verb("alarms", names::ALARMS, verbs::alarms::show)
        .raw("receipt", names::RECEIPT, verbs::receipt::answer)
        .verb("costs", names::COSTS, verbs::costs::answer);
    match requests.search {
        Some(_) => service.verb("search", names::SEARCH, verbs::search::search),
        None => service,
    }
}
