//! The verbs that intake answers over NATS.

use std::sync::Arc;

use spotreel_bus::{Room, Service, names};

use crate::pace::BytePace;
use crate::submit::Intake;
use crate::verbs;

pub fn verbs(intake: &Arc<Intake>, room: Room, pace: Arc<BytePace>) -> Service<Intake> {
    let description = "submissions, and questions about tasks";
    Service::new("intake", description, intake, room)
        .paced(move |bytes| pace.check(bytes))
        .raw("submit", names::SUBMIT, verbs::submit)
        .raw("get", names::GET, verbs::get)
        .raw("list", names::LIST, verbs::list)
        .raw("cancel", names::CANCEL, verbs::cancel)
        .raw("retry", names::RETRY, verbs::retry)
        .raw("create-key", names::OPS_KEY_CREATE, verbs::create_key)
        .raw("list-keys", names::OPS_KEY_LIST, verbs::list_keys)
        .raw("revoke-key", names::OPS_KEY_REVOKE, verbs::revoke_key)
}
