//! What EC2 takes within its first hour is free, but only if EC2 ends it: after a notice such a machine hands its task back
//! and waits to be taken, and neither its worker nor fleet ends it before.

use std::time::Duration;

use super::cloud::Lifecycle;
use super::observation::Observation;
use super::policy::Policy;
use crate::batch::{DrainMode, FREE_IF_TAKEN_WITHIN, Instance, InstanceState, Leaving};
use crate::time::elapsed;

/// What AWS gives from a notice to the end.
const NOTICE: Duration = Duration::from_secs(120);

/// Whether EC2 takes the machine, by its notice, before its first hour is over. Where its worker says no more when that is, the
/// notice is taken to be as old as fleet's knowledge of it.
pub(super) fn is_due(instance: &Instance, seen: &Observation) -> bool {
    let told = seen.worker_of(instance).and_then(|worker| worker.notice_at);
    let age = instance.age(seen.cloud_now);
    let since_notice = match instance.state {
        InstanceState::Draining {
            why: Leaving::Interruption,
            since,
            ..
        } => elapsed(since, seen.now),
        _ => Duration::ZERO,
    };
    let at_end = match told {
        Some(at) => instance.age(at),
        None => age.saturating_sub(since_notice) + NOTICE,
    };
    instance.lifecycle == Lifecycle::Spot && at_end < FREE_IF_TAKEN_WITHIN
}

/// Nothing is in hand on it any more.
pub(super) fn leave_to_ec2(instance: &mut Instance, seen: &Observation) {
    let waits = matches!(
        instance.state,
        InstanceState::Draining {
            why: Leaving::Interruption,
            ..
        }
    );
    if !waits {
        instance.drain(Leaving::Interruption, DrainMode::Now, seen.now);
    }
}

/// Whether it is waited for EC2 to take the machine, whatever its worker does.
pub(super) fn is_awaited(instance: &Instance, seen: &Observation, policy: &Policy) -> bool {
    matches!(instance.state, InstanceState::Draining { why: Leaving::Interruption, since, .. }
        if elapsed(since, seen.now) < NOTICE + policy.patience.drain)
        && is_due(instance, seen)
}
