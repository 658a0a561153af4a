//! What a CreateFleet asks for: read, checked, and told in the market's terms.

use std::collections::HashSet;

use super::offer::{MOST_INSTANCES, Offer};
use crate::ec2::allocation::Strategy;
use crate::ec2::error::Refusal;
use crate::ec2::query::Node;
use crate::ec2::state::{Ec2State, Lifecycle, Tags, micros};
use crate::ec2::tags::check_tags;
use crate::ec2::templates;

/// AWS's limit for an instant fleet.
const MOST_OVERRIDES: usize = 300;

/// Everything that a CreateFleet asks for, checked.
pub(super) struct FleetOrder {
    pub offers: Vec<Offer>,
    pub target: u32,
    pub default_type: Lifecycle,
    pub on_demand: u32,
    pub spot: u32,
    pub spot_strategy: Strategy,
    pub on_demand_strategy: Strategy,
    /// The most that an hour of all on-demand instances may cost, in micro-dollars.
    pub on_demand_total: Option<i64>,
    pub fleet_tags: Tags,
    pub instance_tags: Tags,
}

pub(super) fn read(state: &Ec2State, request: &Node) -> Result<FleetOrder, Refusal> {
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
    if spot_options.has("MaxTotalPrice") {
        return Err(Refusal::unsupported("SpotOptions.MaxTotalPrice"));
    }
    let on_demand_total = match on_demand_options.text("MaxTotalPrice") {
        Some(text) => Some(micros(text, "MaxTotalPrice")?),
        None => None,
    };
    for options in [spot_options, on_demand_options] {
        for name in [
            "MinTargetCapacity",
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
    Ok(FleetOrder {
        offers: offers(state, request)?,
        target: total,
        default_type,
        on_demand,
        spot,
        spot_strategy: Strategy::parse(spot_options.text("AllocationStrategy"))?,
        on_demand_strategy: Strategy::parse(on_demand_options.text("AllocationStrategy"))?,
        on_demand_total,
        fleet_tags,
        instance_tags,
    })
}

fn offers(state: &Ec2State, request: &Node) -> Result<Vec<Offer>, Refusal> {
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
                    tags_requests: !data.tags_for("spot-instances-request")?.is_empty(),
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
fn places(state: &Ec2State, data: &Node) -> Result<Vec<(String, String, String)>, Refusal> {
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
