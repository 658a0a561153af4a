//! The verbs that fleet answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::fleet::Fleet;
use crate::verbs;

/// Memory for large requests, none of which is a good one: twice what one message may have.
const MEMORY_MIB: usize = 18;

pub fn verbs(fleet: &Arc<Fleet>) -> Service<Fleet> {
    let room = Room::new(fleet.config.concurrent_requests, MEMORY_MIB);
    Service::new(
        "fleet",
        "machines: what runs, and orders to stop",
        fleet,
        room,
    )
    .verb("fleet", names::FLEET, verbs::show)
    .verb("stop", names::OPS_STOP, verbs::stop)
    .verb("drain", names::OPS_DRAIN, verbs::drain)
}
