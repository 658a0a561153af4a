//! The verbs that trigger answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::verbs::Requests;

/// People and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 64;
/// Of those that are large: a quote may bear a picture.
const MEMORY_MIB: usize = 64;

pub fn verbs(requests: &Arc<Requests>) -> Service<Requests> {
    let description = "when batches run and why, and orders to run or to hold them";
    let room = Room::new(AT_ONCE, MEMORY_MIB);
    Service::new("trigger", description, requests, room)
        .verb("why", names::WHY, Requests::why)
        .verb("quote", names::QUOTE, Requests::quote)
        .verb("batches", names::LIST_BATCHES, Requests::batches)
        .verb("run", names::OPS_RUN, Requests::run)
        .verb("hold", names::OPS_HOLD, Requests::hold)
        .verb("resume", names::OPS_RESUME, Requests::resume)
}
