//! CreateFleet of type `instant`, and what becomes of such fleets.

use std::collections::HashSet;

use jiff::Timestamp;

use super::Launcher;
use super::allocation::{Limits, Pool, Strategy, allocate};
use super::error::Refusal;
use super::filters::page;
use super::instances::check_tags;
use super::query::Node;
use super::state::{
    Blueprint, Cause, Failed, Fleet, Lifecycle, Placed, State, Tags, dollars, micros, new_uuid,
    stamp,
};
use super::templates::{self, Answer, tag_items};
use super::xml::{Element, item};
use crate::faults::{Action, Rule};

/// AWS's limits: overrides of an instant fleet, ids in one DeleteFleets.
const MOST_OVERRIDES: usize = 300;
const MOST_DELETED: usize = 25;
/// No launch here is larger; what AWS allows, a machine that runs processes cannot bear.
const MOST_INSTANCES: u32 = 1000;
const PAGE: (usize, usize) = (1, 1000);

/// One override of a fleet, as it was asked for, with what it means here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub template_id: String,
    pub version: u64,
    pub kind: String,
    pub zone: String,
    pub zone_id: String,
    pub subnet_id: String,
    pub image_id: String,
    /// Micro-dollars an hour for one unit; none: the on-demand price.
    pub max_price: Option<i64>,
    pub weight: f64,
    priority: Option<String>,
}

/// Everything that a CreateFleet asks for, checked.
struct Order {
    offers: Vec<Offer>,
    target: u32,
    default_type: Lifecycle,
    on_demand: u32,
    spot: u32,
    spot_strategy: Strategy,
    on_demand_strategy: Strategy,
    fleet_tags: Tags,
    instance_tags: Tags,
}

pub(crate) fn create(
    state: &mut State,
    request: &Node,
    launcher: &Launcher<'_>,
    faults: &[Rule],
) -> Answer {
    let order = read(state, request)?;
    launcher.dry_run(request)?;
    let mut fleet = Fleet {
        id: format!("fleet-{}", new_uuid()),
        client_token: request.text("ClientToken").unwrap_or("").to_owned(),
        created: launcher.now,
        deleted: false,
        tags: order.fleet_tags.clone(),
        target: order.target,
        default_type: order.default_type,
        placed: Vec::new(),
        failed: Vec::new(),
    };
    for (lifecycle, target) in [
        (Lifecycle::OnDemand, order.on_demand),
        (Lifecycle::Spot, order.spot),
    ] {
        if target > 0 {
            fill(
                state,
                &order,
                &mut fleet,
                (lifecycle, target),
                launcher,
                faults,
            )?;
        }
    }
    let answer = Element::new("")
        .text("fleetId", &fleet.id)
        .set("errorSet", fleet.failed.iter().map(describe_failed))
        .set("fleetInstanceSet", fleet.placed.iter().map(describe_placed));
    state.fleets.insert(fleet.id.clone(), fleet);
    Ok(answer)
}

fn read(state: &State, request: &Node) -> Result<Order, Refusal> {
    match request.text("Type") {
        Some("instant") => {}
        Some(kind @ ("maintain" | "request")) => {
            return Err(Refusal::unsupported(&format!("A fleet of type {kind}")));
        }
        None => {
            return Err(Refusal::unsupported(
                "A fleet of type maintain (the default)",
            ));
        }
        Some(other) => return Err(Refusal::invalid(other, "Type")),
    }
    let nothing = Node::default();
    let spot_options = request.child("SpotOptions").unwrap_or(&nothing);
    let on_demand_options = request.child("OnDemandOptions").unwrap_or(&nothing);
    for options in [spot_options, on_demand_options] {
        for name in [
            "MinTargetCapacity",
            "MaxTotalPrice",
            "SingleInstanceType",
            "SingleAvailabilityZone",
            "CapacityReservationOptions",
        ] {
            // Defaults that an SDK may spell out ask for nothing.
            if options.text(name).is_some_and(|text| text != "false") {
                return Err(Refusal::unsupported(name));
            }
        }
    }
    let missing = || Refusal::missing("TargetCapacitySpecification");
    let target = request.child("TargetCapacitySpecification");
    let target = target.ok_or_else(missing)?;
    let total: u32 = target
        .parsed("TotalTargetCapacity")?
        .ok_or_else(|| Refusal::missing("TotalTargetCapacity"))?;
    if total == 0 || total > MOST_INSTANCES {
        let total = total.to_string();
        return Err(Refusal::invalid(&total, "TotalTargetCapacity"));
    }
    if target
        .text("TargetCapacityUnitType")
        .is_some_and(|unit| unit != "units")
    {
        return Err(Refusal::unsupported("TargetCapacityUnitType"));
    }
    let default_type = match target.text("DefaultTargetCapacityType") {
        Some("spot") => Lifecycle::Spot,
        Some("on-demand") | None => Lifecycle::OnDemand,
        Some(other) => return Err(Refusal::invalid(other, "DefaultTargetCapacityType")),
    };
    let mut on_demand: u32 = target.parsed("OnDemandTargetCapacity")?.unwrap_or(0);
    let mut spot: u32 = target.parsed("SpotTargetCapacity")?.unwrap_or(0);
    let Some(rest) = total.checked_sub(on_demand.saturating_add(spot)) else {
        let message = "The sum of the Spot and On-Demand capacity is more than the total";
        return Err(Refusal::new("InvalidTargetCapacitySpecification", message));
    };
    match default_type {
        Lifecycle::Spot => spot += rest,
        Lifecycle::OnDemand => on_demand += rest,
    }
    let (fleet_tags, instance_tags) = (request.tags_for("fleet")?, request.tags_for("instance")?);
    check_tags(&fleet_tags)?;
    check_tags(&instance_tags)?;
    Ok(Order {
        offers: offers(state, request)?,
        target: total,
        default_type,
        on_demand,
        spot,
        spot_strategy: Strategy::parse(spot_options.text("AllocationStrategy"))?,
        on_demand_strategy: Strategy::parse(on_demand_options.text("AllocationStrategy"))?,
        fleet_tags,
        instance_tags,
    })
}

fn offers(state: &State, request: &Node) -> Result<Vec<Offer>, Refusal> {
    let configs = request.list("LaunchTemplateConfigs");
    if configs.is_empty() {
        return Err(Refusal::missing("LaunchTemplateConfigs"));
    }
    let mut offers = Vec::new();
    for config in configs {
        let specification = config.child("LaunchTemplateSpecification");
        let specification =
            specification.ok_or_else(|| Refusal::missing("LaunchTemplateSpecification"))?;
        let template = templates::find(state, specification)?;
        let version = templates::version(template, specification.required("Version")?)?;
        let none = Node::default();
        let mut overrides = config.list("Overrides");
        if overrides.is_empty() {
            overrides.push(&none);
        }
        for wanted in overrides {
            for name in ["InstanceRequirements", "Placement", "BlockDeviceMapping"] {
                if wanted.has(name) {
                    return Err(Refusal::unsupported(&format!("Override {name}")));
                }
            }
            let data = version.data.merged(wanted);
            let max_price = match wanted.text("MaxPrice").filter(|text| !text.is_empty()) {
                Some(text) => Some(micros(text, "MaxPrice")?),
                None => None,
            };
            let weight = wanted.parsed::<f64>("WeightedCapacity")?.unwrap_or(1.0);
            if !(1.0..=999.0).contains(&weight) {
                return Err(Refusal::invalid(&weight.to_string(), "WeightedCapacity"));
            }
            for (zone, zone_id, subnet_id) in places(state, &data)? {
                offers.push(Offer {
                    template_id: template.id.clone(),
                    version: version.number,
                    kind: data.required("InstanceType")?.to_owned(),
                    zone,
                    zone_id,
                    subnet_id,
                    image_id: data.required("ImageId")?.to_owned(),
                    max_price,
                    weight,
                    priority: wanted.text("Priority").map(str::to_owned),
                });
            }
        }
    }
    if offers.len() > MOST_OVERRIDES {
        let message = format!("A fleet can have at most {MOST_OVERRIDES} overrides");
        return Err(Refusal::new("InvalidFleetConfiguration", message));
    }
    let mut seen = HashSet::new();
    for offer in &offers {
        if !seen.insert((&offer.kind, &offer.subnet_id)) {
            let message = "The fleet configuration contains duplicate instance pools. Adjust your \
                           fleet configuration to remove the duplicate instance pools";
            return Err(Refusal::new("InvalidFleetConfiguration", message));
        }
    }
    Ok(offers)
}

/// Zone, zone id and subnet: of the subnet asked for, of the zone asked for, or all.
fn places(state: &State, data: &Node) -> Result<Vec<(String, String, String)>, Refusal> {
    let interfaces = data.list("NetworkInterface");
    let subnet = data
        .text("SubnetId")
        .or_else(|| interfaces.iter().find_map(|one| one.text("SubnetId")));
    let zones = state.market.zones().iter().filter(|zone| {
        subnet.is_none_or(|subnet| subnet == zone.subnet_id.as_str())
            && data
                .text("AvailabilityZone")
                .is_none_or(|name| name == zone.name.as_str())
    });
    let places: Vec<_> = zones
        .map(|zone| (zone.name.clone(), zone.id.clone(), zone.subnet_id.clone()))
        .collect();
    if !places.is_empty() {
        return Ok(places);
    }
    match subnet {
        Some(subnet) => {
            let message = format!("The subnet ID '{subnet}' does not exist");
            Err(Refusal::new("InvalidSubnetID.NotFound", message))
        }
        None => {
            let zone = data.text("AvailabilityZone").unwrap_or("");
            Err(Refusal::invalid(zone, "AvailabilityZone"))
        }
    }
}

/// Launches what one market gives, and notes what it refused.
fn fill(
    state: &mut State,
    order: &Order,
    fleet: &mut Fleet,
    (lifecycle, target): (Lifecycle, u32),
    launcher: &Launcher<'_>,
    faults: &[Rule],
) -> Result<(), Refusal> {
    let mut fail = |offer: &Offer, code: &str, message: String| {
        fleet.failed.push(Failed {
            offer: offer.clone(),
            lifecycle,
            code: code.to_owned(),
            message,
        });
    };
    let (mut open, mut pools) = (Vec::new(), Vec::new());
    for offer in &order.offers {
        match pool(state, offer, lifecycle, launcher.now, faults) {
            Ok(pool) => {
                open.push(offer);
                pools.push(pool);
            }
            Err(refusal) => fail(offer, &refusal.code, refusal.message),
        }
    }
    let partial = faults.iter().find(|rule| rule.action == Action::Partial);
    let quota = launcher.quota(lifecycle);
    let limits = Limits {
        target: f64::from(target),
        vcpus: quota.saturating_sub(state.vcpus(lifecycle)),
        instances: partial.and_then(|rule| rule.count).unwrap_or(u32::MAX),
    };
    let strategy = match lifecycle {
        Lifecycle::Spot => order.spot_strategy,
        Lifecycle::OnDemand => order.on_demand_strategy,
    };
    let found = allocate(&pools, strategy, limits);
    for at in found.exhausted {
        let refusal = no_capacity(open[at]);
        fail(open[at], &refusal.code, refusal.message);
    }
    for at in found.over_quota {
        let (code, message) = over_quota(lifecycle, quota);
        fail(open[at], code, message);
    }
    if found.fulfilled < limits.target
        && let Some(rule) = partial
    {
        for offer in &open {
            let refusal = forced(rule, offer);
            fail(offer, &refusal.code, refusal.message);
        }
    }
    for (offer, count) in open.into_iter().zip(found.counts) {
        if count == 0 {
            continue;
        }
        let mut instance_ids = Vec::new();
        for _ in 0..count {
            let blueprint = blueprint(state, order, fleet, offer, lifecycle)?;
            instance_ids.push(launcher.launch(state, blueprint));
        }
        fleet.placed.push(Placed {
            offer: offer.clone(),
            lifecycle,
            instance_ids,
        });
    }
    Ok(())
}

/// What the market says to an offer now.
fn pool(
    state: &State,
    offer: &Offer,
    lifecycle: Lifecycle,
    now: Timestamp,
    faults: &[Rule],
) -> Result<Pool, Refusal> {
    let ordered = faults
        .iter()
        .find(|rule| rule.action == Action::PoolError && rule.means_pool(&offer.kind, &offer.zone));
    if let Some(rule) = ordered {
        return Err(forced(rule, offer));
    }
    let market = &state.market;
    let (Some(on_demand), Some(spot)) = (
        market.on_demand(&offer.kind),
        market.price(&offer.kind, &offer.zone, now),
    ) else {
        let (kind, zone) = (&offer.kind, &offer.zone);
        let message = format!(
            "Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone})."
        );
        return Err(Refusal::new("InvalidFleetConfiguration", message));
    };
    let vcpus = state.vcpus_of(&offer.kind);
    if lifecycle == Lifecycle::OnDemand {
        return Ok(Pool {
            unit_price: to_f64(on_demand) / offer.weight,
            weight: offer.weight,
            free: MOST_INSTANCES,
            vcpus,
        });
    }
    let unit_price = to_f64(spot) / offer.weight;
    let limit = offer
        .max_price
        .map_or(to_f64(on_demand) / offer.weight, to_f64);
    if unit_price > limit {
        #[allow(clippy::cast_possible_truncation)]
        // micro-dollars of one machine fit in any integer
        let (asked, least) = (dollars(limit as i64), dollars(unit_price.ceil() as i64));
        let message = format!(
            "Your Spot request price of {asked} is lower than the minimum required Spot request \
             fulfillment price of {least}."
        );
        return Err(Refusal::new("SpotMaxPriceTooLow", message));
    }
    let capacity = market.capacity(&offer.kind, &offer.zone, now);
    Ok(Pool {
        unit_price,
        weight: offer.weight,
        free: capacity.saturating_sub(state.used(&offer.kind, &offer.zone)),
        vcpus,
    })
}

#[allow(clippy::cast_precision_loss)] // micro-dollars of one machine are far below 2^52
fn to_f64(micros: i64) -> f64 {
    micros as f64
}

fn forced(rule: &Rule, offer: &Offer) -> Refusal {
    match (&rule.code, &rule.message) {
        (None, None) => no_capacity(offer),
        (code, message) => Refusal::new(
            code.as_deref().unwrap_or("InsufficientInstanceCapacity"),
            message.as_deref().unwrap_or("a fault on order"),
        ),
    }
}

fn no_capacity(offer: &Offer) -> Refusal {
    let message = format!(
        "We currently do not have sufficient {} capacity in the Availability Zone you requested \
         ({}). Our system will be working on provisioning additional capacity.",
        offer.kind, offer.zone
    );
    Refusal::new("InsufficientInstanceCapacity", message)
}

fn over_quota(lifecycle: Lifecycle, quota: u32) -> (&'static str, String) {
    match lifecycle {
        Lifecycle::Spot => (
            "MaxSpotInstanceCountExceeded",
            "Max spot instance count exceeded".to_owned(),
        ),
        Lifecycle::OnDemand => (
            "VcpuLimitExceeded",
            format!(
                "You have requested more vCPU capacity than your current vCPU limit of {quota} allows for the \
                 instance bucket that the specified instance type belongs to. Please visit \
                 http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
            ),
        ),
    }
}

fn blueprint(
    state: &State,
    order: &Order,
    fleet: &Fleet,
    offer: &Offer,
    lifecycle: Lifecycle,
) -> Result<Blueprint, Refusal> {
    let template = state.templates.get(&offer.template_id);
    let template = template.ok_or_else(|| Refusal::new("InternalError", "no such template"))?;
    let data = &templates::version(template, &offer.version.to_string())?.data;
    let mut tags = data.tags_for("instance")?;
    tags.extend(order.instance_tags.clone());
    tags.insert("aws:ec2:fleet-id".to_owned(), fleet.id.clone());
    tags.insert("aws:ec2launchtemplate:id".to_owned(), template.id.clone());
    let version = offer.version.to_string();
    tags.insert("aws:ec2launchtemplate:version".to_owned(), version);
    let behavior = data.text("InstanceInitiatedShutdownBehavior");
    Ok(Blueprint {
        kind: offer.kind.clone(),
        zone: offer.zone.clone(),
        zone_id: offer.zone_id.clone(),
        subnet_id: offer.subnet_id.clone(),
        image_id: offer.image_id.clone(),
        lifecycle,
        max_price: (lifecycle == Lifecycle::Spot)
            .then(|| {
                offer
                    .max_price
                    .map(|price| whole_price(price, offer.weight))
            })
            .flatten(),
        fleet_id: fleet.id.clone(),
        client_token: fleet.client_token.clone(),
        tags,
        user_data: templates::user_data(data)?,
        has_role: data.has("IamInstanceProfile"),
        ends_on_shutdown: behavior == Some("terminate"),
    })
}

/// A bid is per unit; the machine has `weight` of them.
#[allow(clippy::cast_possible_truncation)] // as in `pool`
fn whole_price(per_unit: i64, weight: f64) -> i64 {
    (to_f64(per_unit) * weight) as i64
}

/// Instant fleets are told only to whoever names them: AWS lists them to nobody.
pub(crate) fn list(state: &State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    launcher.dry_run(request)?;
    let ids = request.texts("FleetId");
    let mut found = Vec::new();
    for id in ids {
        let fleet = state.fleets.get(id);
        found.push(fleet.ok_or_else(|| no_fleet(id))?);
    }
    let (found, next) = page(request, PAGE, super::filters::numbered(found))?;
    let answer = Element::new("").text_if("nextToken", next);
    Ok(answer.set(
        "fleetSet",
        found.into_iter().map(|fleet| describe(state, fleet)),
    ))
}

fn no_fleet(id: &str) -> Refusal {
    let message = format!("The fleet ID '{id}' does not exist");
    Refusal::new("InvalidFleetId.NotFound", message)
}

/// Deletes fleets and ends all of their instances.
pub(crate) fn delete(state: &mut State, request: &Node, launcher: &Launcher<'_>) -> Answer {
    let ids = request.texts("FleetId");
    if ids.is_empty() {
        return Err(Refusal::missing("FleetId"));
    }
    request.required("TerminateInstances")?;
    if !request.flag("TerminateInstances")? {
        let message = "NoTerminateInstances option is not supported for instant fleet";
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    if ids.len() > MOST_DELETED {
        let message = format!("At most {MOST_DELETED} instant fleets can be deleted at once");
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    launcher.dry_run(request)?;
    let (mut deleted, mut refused) = (Vec::new(), Vec::new());
    for id in ids {
        let error = match state.fleets.get_mut(id) {
            Some(fleet) if !fleet.deleted => {
                fleet.deleted = true;
                deleted.push(
                    item()
                        .text("currentFleetState", "deleted_terminating")
                        .text("previousFleetState", "active")
                        .text("fleetId", id),
                );
                end_all(state, id, launcher);
                continue;
            }
            Some(_) => ("fleetNotInDeletableState", "The fleet is deleted already"),
            None if id.starts_with("fleet-") => ("fleetIdDoesNotExist", "The fleet does not exist"),
            None => ("fleetIdMalformed", "The fleet id is malformed"),
        };
        let (code, message) = error;
        let error = Element::new("error")
            .text("code", code)
            .text("message", message);
        refused.push(item().with(error).text("fleetId", id));
    }
    Ok(Element::new("")
        .set("successfulFleetDeletionSet", deleted)
        .set("unsuccessfulFleetDeletionSet", refused))
}

fn end_all(state: &mut State, fleet_id: &str, launcher: &Launcher<'_>) {
    for instance in state.instances.values_mut() {
        if instance.blueprint.fleet_id == fleet_id {
            launcher.end(instance, Cause::User);
        }
    }
}

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

fn describe_placed(placed: &Placed) -> Element {
    let ids = placed.instance_ids.iter();
    item()
        .with(describe_offer(&placed.offer))
        .text("lifecycle", placed.lifecycle.name())
        .set("instanceIds", ids.map(|id| Element::leaf("item", id)))
        .text("instanceType", &placed.offer.kind)
}

fn describe_failed(failed: &Failed) -> Element {
    item()
        .with(describe_offer(&failed.offer))
        .text("lifecycle", failed.lifecycle.name())
        .text("errorCode", &failed.code)
        .text("errorMessage", &failed.message)
}

fn describe(state: &State, fleet: &Fleet) -> Element {
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
