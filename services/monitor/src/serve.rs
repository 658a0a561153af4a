//! The verbs that monitor answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::requests::Requests;
use crate::verbs::{costs, receipt};

/// People and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 32;
/// Of those that are large.
const MEMORY_MIB: usize = 16;

pub fn verbs(requests: &Arc<Requests>) -> Service<Requests> {
    let description = "what tasks and batches cost";
    let room = Room::new(AT_ONCE, MEMORY_MIB);
    Service::new("monitor", description, requests, room)
        .raw("receipt", names::RECEIPT, receipt::answer)
        .verb("costs", names::COSTS, costs::answer)
}
