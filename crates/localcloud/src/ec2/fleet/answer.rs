//! Fleets, launches and refusals as XML.

use super::offer::Offer;
use crate::ec2::state::{Ec2State, Failed, Fleet, Lifecycle, Placed, dollars, stamp};
use crate::ec2::tags::tag_items;
use crate::ec2::xml::{Element, item};

fn describe_offer(offer: &Offer) -> Element {
    let template = Element::new("launchTemplateSpecification")
        .text("launchTemplateId", &offer.template_id)
        .text("version", offer.version);
    let overrides = Element::new("overrides")
        .text("instanceType", &offer.kind)
        .text_if("maxPrice", offer.max_price.map(dollars))
        .text("subnetId", &offer.subnet_id)
        .text("availabilityZone", &offer.zone)
        .text("weightedCapacity", offer.weight)
        .text_if("priority", offer.priority.as_ref());
    Element::new("launchTemplateAndOverrides")
        .with(template)
        .with(overrides)
}

pub(super) fn describe_placed(placed: &Placed) -> Element {
    let ids = placed.instance_ids.iter();
    item()
        .with(describe_offer(&placed.offer))
        .text("lifecycle", placed.lifecycle.name())
        .set("instanceIds", ids.map(|id| Element::leaf("item", id)))
        .text("instanceType", &placed.offer.kind)
}

pub(super) fn describe_failed(failed: &Failed) -> Element {
    item()
        .with(describe_offer(&failed.offer))
        .text("lifecycle", failed.lifecycle.name())
        .text("errorCode", &failed.code)
        .text("errorMessage", &failed.message)
}

pub(super) fn describe(state: &Ec2State, fleet: &Fleet) -> Element {
    let ids = fleet.placed.iter().flat_map(|placed| {
        let ids = placed.instance_ids.iter();
        ids.map(move |id| (id, placed))
    });
    let fulfilled = |lifecycle| {
        let alive = ids.clone().filter(|(id, placed)| {
            placed.lifecycle == lifecycle
                && state.instance(id).is_some_and(|one| one.phase().occupies())
        });
        alive.map(|(_, placed)| placed.offer.weight).sum::<f64>()
    };
    let on_demand = fulfilled(Lifecycle::OnDemand);
    let state_name = match fleet.deleted {
        false => "active",
        true if ids
            .clone()
            .any(|(id, _)| state.instance(id).is_some_and(|one| one.phase().occupies())) =>
        {
            "deleted_terminating"
        }
        true => "deleted",
    };
    let target = Element::new("targetCapacitySpecification")
        .text("totalTargetCapacity", fleet.target)
        .text("defaultTargetCapacityType", fleet.default_type.name());
    item()
        .text("fleetId", &fleet.id)
        .text("createTime", stamp(fleet.created))
        .text("fleetState", state_name)
        .text("clientToken", &fleet.client_token)
        .text("type", "instant")
        .text("fulfilledCapacity", on_demand + fulfilled(Lifecycle::Spot))
        .text("fulfilledOnDemandCapacity", on_demand)
        .with(target)
        .set("tagSet", tag_items(&fleet.tags))
        .set("errorSet", fleet.failed.iter().map(describe_failed))
        .set("fleetInstanceSet", fleet.placed.iter().map(describe_placed))
}
