//! The time of an instance that EC2 bills, by the listings: only `running` is charged, until the end that EC2 reports, if it
//! reports one.

use super::cloud::{CloudState, SeenInstance};
use super::observation::Observation;
use crate::batch::Instance;
use crate::money::Usd;

pub(super) fn read(instance: &mut Instance, shown: &SeenInstance, seen: &Observation) {
    let now = seen.cloud_now;
    match shown.state {
        CloudState::Pending if instance.usage.pending => {
            instance.usage.began_at = Some(now);
            instance.billed_to = now;
            instance.cost = Usd::ZERO;
        }
        // An outdated listing.
        CloudState::Pending => {}
        CloudState::Running => {
            instance.usage.pending = false;
            (instance.usage.left_at, instance.usage.gone_at) = (None, None);
        }
        CloudState::ShuttingDown | CloudState::Terminated | CloudState::Stopped => {
            let told = shown
                .left_at
                .filter(|at| (instance.launched_at..=now).contains(at));
            let left_at = told.or(instance.usage.left_at).unwrap_or(now);
            instance.usage.left_at = Some(left_at);
            // Between two listings it may have run, unless EC2 says that it never did.
            instance.usage.pending &= shown.never_started();
            instance.usage.taken = shown.is_taken();
            if shown.state == CloudState::Terminated {
                instance.usage.gone_at.get_or_insert(now);
            }
        }
    }
    let Some(market) = &seen.market else { return };
    let usage = &mut instance.usage;
    if usage.volume == Usd::ZERO {
        usage.volume = market.volume;
    }
    if usage.address == Usd::ZERO && shown.has_public_address {
        usage.address = market.address;
    }
}
