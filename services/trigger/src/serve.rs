//! The verbs that trigger answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::verbs::Desk;

/// People and dashboards ask; more than this at a time wait.
const AT_ONCE: usize = 64;
/// Of those that are large: a quote may bear a picture.
const MEMORY_MIB: usize = 64;

pub fn verbs(desk: &Arc<Desk>) -> Service<Desk> {
    let description = "when batches run and why, and orders to run or to hold them";
    Service::new("trigger", description, desk, Room::new(AT_ONCE, MEMORY_MIB))
        .verb("why", names::WHY, Desk::why)
        .verb("quote", names::QUOTE, Desk::quote)
        .verb("batches", names::LIST_BATCHES, Desk::batches)
        .verb("run", names::OPS_RUN, Desk::run)
        .verb("hold", names::OPS_HOLD, Desk::hold)
        .verb("resume", names::OPS_RESUME, Desk::resume)
}
