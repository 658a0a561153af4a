//! CreateFleet of type `instant`: what the market gives is launched, what it refuses is told.

mod answer;
mod offer;
mod order;
mod records;

use jiff::Timestamp;

use super::allocation::{AllocationLimits, AllocationPool, allocate};
use super::error::Refusal;
use super::launcher::{Answer, Launcher};
use super::query::Node;
use super::state::{Blueprint, Ec2State, Failed, Fleet, Lifecycle, Placed, dollars, new_uuid};
use super::templates;
use super::xml::Element;
use crate::faults::{Action, Rule};
use answer::{describe_failed, describe_placed};
use offer::MOST_INSTANCES;
pub(crate) use offer::Offer;
use order::{FleetOrder, read};
pub(crate) use records::{delete, list};

pub(crate) fn create(
    state: &mut Ec2State,
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

/// Launches what one market gives, and notes what it refused.
fn fill(
    state: &mut Ec2State,
    order: &FleetOrder,
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
    let limits = AllocationLimits {
        target: f64::from(target),
        vcpus: quota.saturating_sub(state.vcpus(lifecycle)),
        instances: partial.and_then(|rule| rule.count).unwrap_or(u32::MAX),
        total_price: match lifecycle {
            Lifecycle::Spot => f64::INFINITY,
            Lifecycle::OnDemand => order.on_demand_total.map_or(f64::INFINITY, to_f64),
        },
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
    for at in found.too_dear {
        let message = "Unable to fulfill capacity due to your request configuration. Please adjust your \
                       request and try again.";
        fail(open[at], "UnfulfillableCapacity", message.to_owned());
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
    state: &Ec2State,
    offer: &Offer,
    lifecycle: Lifecycle,
    now: Timestamp,
    faults: &[Rule],
) -> Result<AllocationPool, Refusal> {
    let ordered = faults
        .iter()
        .find(|rule| rule.action == Action::PoolError && rule.means_pool(&offer.kind, &offer.zone));
    if let Some(rule) = ordered {
        return Err(forced(rule, offer));
    }
    if lifecycle == Lifecycle::OnDemand && offer.tags_requests {
        let message = "You cannot specify tags for Spot instances requests if there are no Spot instances requests \
                       being created by the request.";
        return Err(Refusal::new("InvalidParameterValue", message));
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
        return Ok(AllocationPool {
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
        #[expect(clippy::cast_possible_truncation)]
        // micro-dollars of one machine fit in any integer
        let (asked, least) = (dollars(limit as i64), dollars(unit_price.ceil() as i64));
        let message = format!(
            "Your Spot request price of {asked} is lower than the minimum required Spot request \
             fulfillment price of {least}."
        );
        return Err(Refusal::new("SpotMaxPriceTooLow", message));
    }
    let capacity = market.capacity(&offer.kind, &offer.zone, now);
    Ok(AllocationPool {
        unit_price,
        weight: offer.weight,
        free: capacity.saturating_sub(state.used(&offer.kind, &offer.zone)),
        vcpus,
    })
}

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
    state: &Ec2State,
    order: &FleetOrder,
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
        volume_gib: volume_gib(data)?,
    })
}

/// Of all volumes that the template gives.
fn volume_gib(data: &Node) -> Result<i64, Refusal> {
    let mappings = data.list("BlockDeviceMapping").into_iter();
    let disks = mappings.filter_map(|mapping| mapping.child("Ebs"));
    let mut sum = 0;
    for disk in disks {
        sum += i64::from(disk.parsed::<u32>("VolumeSize")?.unwrap_or(0));
    }
    Ok(sum)
}

/// A bid is per unit; the machine has `weight` of them.
#[expect(clippy::cast_possible_truncation, reason = "as in `pool`")]
fn whole_price(per_unit: i64, weight: f64) -> i64 {
    (to_f64(per_unit) * weight) as i64
}
