//! An instance that EC2 interrupts within its first hour is free, but only if EC2 ends it. So after a notice its worker hands
//! back its task, and neither the worker nor fleet ends the instance.

use std::time::Duration;

use super::cloud::Lifecycle;
use super::observation::Observation;
use super::policy::Policy;
use crate::batch::{DrainMode, FREE_IF_TAKEN_WITHIN, Instance, InstanceState, Leaving};
use crate::time::elapsed;

/// Time from EC2's notice to the interruption.
const NOTICE: Duration = Duration::from_secs(120);

/// Whether EC2, by its notice, ends the instance within its first hour. If its worker no longer tells the time, the notice
/// counts from when fleet learned of it.
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

/// Its worker has no task any more; EC2 will end the instance.
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

/// Whether fleet waits for EC2 to end the instance, whatever its worker does.
pub(super) fn is_awaited(instance: &Instance, seen: &Observation, policy: &Policy) -> bool {
    matches!(instance.state, InstanceState::Draining { why: Leaving::Interruption, since, .. }
        if elapsed(since, seen.now) < NOTICE + policy.patience.drain)
        && is_due(instance, seen)
}
