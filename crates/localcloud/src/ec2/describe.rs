//! What the region has to offer: zones, subnets, types, prices.

use jiff::{SignedDuration, Timestamp};

use super::error::Refusal;
use super::filters::{Filters, numbered, page};
use super::launcher::{Answer, Launcher};
use super::market::{HISTORY, InstanceKind};
use super::query::Node;
use super::state::{Ec2State, VPC_ID, dollars, stamp};
use super::xml::{Element, item};

const PRODUCT: &str = "Linux/UNIX";
const PAGE: (usize, usize) = (5, 1000);
const PRICE_PAGE: (usize, usize) = (1, 1000);

pub(crate) fn zones(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let names = request.texts("ZoneName");
    let ids = request.texts("ZoneId");
    let zones = state.market.zones();
    let unknown = names
        .iter()
        .find(|name| !zones.iter().any(|zone| zone.name == **name));
    if let Some(name) = unknown {
        let message = format!("Invalid availability zone: [{name}]");
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    let known = [
        "zone-name",
        "zone-id",
        "state",
        "region-name",
        "zone-type",
        "opt-in-status",
    ];
    let filters = Filters::of(request, &known)?;
    launcher.dry_run(request)?;
    let region = launcher.region();
    let found = zones.iter().filter(|zone| {
        (names.is_empty() || names.contains(&zone.name.as_str()))
            && (ids.is_empty() || ids.contains(&zone.id.as_str()))
            && filters.match_all(|name| {
                vec![match name {
                    "zone-name" => zone.name.as_str(),
                    "zone-id" => &zone.id,
                    "state" => "available",
                    "region-name" => region,
                    "zone-type" => "availability-zone",
                    _ => "opt-in-not-required",
                }]
            })
    });
    let items = found.map(|zone| {
        item()
            .text("zoneName", &zone.name)
            .text("zoneId", &zone.id)
            .text("zoneState", "available")
            .text("regionName", region)
            .text("groupName", region)
            .text("networkBorderGroup", region)
            .text("zoneType", "availability-zone")
            .text("optInStatus", "opt-in-not-required")
            .set("messageSet", [])
    });
    Ok(Element::new("").set("availabilityZoneInfo", items))
}

pub(crate) fn subnets(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let ids = request.texts("SubnetId");
    let zones = state.market.zones();
    for id in &ids {
        if !zones.iter().any(|zone| zone.subnet_id == **id) {
            let message = format!("The subnet ID '{id}' does not exist");
            return Err(Refusal::new("InvalidSubnetID.NotFound", message));
        }
    }
    let known = [
        "availability-zone",
        "availability-zone-id",
        "subnet-id",
        "vpc-id",
        "state",
        "default-for-az",
        "tag:",
        "tag-key",
    ];
    let filters = Filters::of(request, &known)?;
    launcher.dry_run(request)?;
    let found = zones.iter().zip(0_u8..).filter(|(zone, _)| {
        (ids.is_empty() || ids.contains(&zone.subnet_id.as_str()))
            && filters.match_all(|name| match name {
                "availability-zone" => vec![zone.name.as_str()],
                "availability-zone-id" => vec![zone.id.as_str()],
                "subnet-id" => vec![zone.subnet_id.as_str()],
                "vpc-id" => vec![VPC_ID],
                "state" => vec!["available"],
                "default-for-az" => vec!["true"],
                _ => vec![],
            })
    });
    let (found, next) = page(request, PAGE, numbered(found))?;
    let items = found.into_iter().map(|(zone, nth)| {
        item()
            .text("subnetId", &zone.subnet_id)
            .text("vpcId", VPC_ID)
            .text("state", "available")
            .text("availabilityZone", &zone.name)
            .text("availabilityZoneId", &zone.id)
            .text("cidrBlock", format!("10.{nth}.0.0/16"))
            .text("availableIpAddressCount", 65_531)
            .text("defaultForAz", true)
            .text("mapPublicIpOnLaunch", true)
            .text("ownerId", launcher.account_id())
            .set("tagSet", [])
    });
    let answer = Element::new("").set("subnetSet", items);
    Ok(answer.text_if("nextToken", next))
}

pub(crate) fn types(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let names = request.texts("InstanceType");
    let kinds = state.market.kinds();
    let unknown: Vec<&str> = names
        .iter()
        .filter(|name| !kinds.iter().any(|kind| kind.name == **name))
        .copied()
        .collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        let message = format!("The following supplied instance types do not exist: [{list}]");
        return Err(Refusal::new("InvalidInstanceType", message));
    }
    let known = [
        "instance-type",
        "supported-usage-class",
        "current-generation",
    ];
    let filters = Filters::of(request, &known)?;
    launcher.dry_run(request)?;
    let found = kinds.iter().filter(|kind| {
        (names.is_empty() || names.contains(&kind.name.as_str()))
            && filters.match_all(|name| match name {
                "instance-type" => vec![kind.name.as_str()],
                "current-generation" => vec!["true"],
                _ => vec!["on-demand", "spot"],
            })
    });
    let (found, next) = page(request, PAGE, numbered(found))?;
    let answer = Element::new("").set("instanceTypeSet", found.into_iter().map(describe_kind));
    Ok(answer.text_if("nextToken", next))
}

fn describe_kind(kind: &InstanceKind) -> Element {
    let leaf = |text: &str| Element::leaf("item", text);
    let mut element = item()
        .text("instanceType", &kind.name)
        .text("currentGeneration", true)
        .set("supportedUsageClasses", [leaf("on-demand"), leaf("spot")])
        .text("bareMetal", false)
        .text("hypervisor", "nitro")
        .with(Element::new("processorInfo").set("supportedArchitectures", [leaf("x86_64")]))
        .with(Element::new("vCpuInfo").text("defaultVCpus", kind.vcpus))
        .with(Element::new("memoryInfo").text("sizeInMiB", kind.memory_mib))
        .text("instanceStorageSupported", kind.nvme_gb > 0);
    if kind.nvme_gb > 0 {
        let storage = Element::new("instanceStorageInfo");
        element = element.with(storage.text("totalSizeInGB", kind.nvme_gb));
    }
    if kind.gpus > 0 {
        let memory = Element::new("memoryInfo").text("sizeInMiB", kind.gpu_memory_mib);
        let gpu = item()
            .text("name", &kind.gpu_name)
            .text("manufacturer", "NVIDIA")
            .text("count", kind.gpus)
            .with(memory);
        let total = kind.gpu_memory_mib * u64::from(kind.gpus);
        element = element.with(
            Element::new("gpuInfo")
                .set("gpus", [gpu])
                .text("totalGpuMemoryInMiB", total),
        );
    }
    element
}

pub(crate) fn offerings(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let location_type = request.text("LocationType").unwrap_or("region");
    let zones = state.market.zones().iter();
    let locations: Vec<&str> = match location_type {
        "region" => vec![launcher.region()],
        "availability-zone" => zones.map(|zone| zone.name.as_str()).collect(),
        "availability-zone-id" => zones.map(|zone| zone.id.as_str()).collect(),
        other => return Err(Refusal::invalid(other, "LocationType")),
    };
    let filters = Filters::of(request, &["instance-type", "location"])?;
    launcher.dry_run(request)?;
    let kinds = state.market.kinds().iter();
    let pairs = kinds.flat_map(|kind| locations.iter().map(move |location| (kind, *location)));
    let found = pairs.filter(|(kind, location)| {
        filters.match_all(|name| match name {
            "instance-type" => vec![kind.name.as_str()],
            _ => vec![location],
        })
    });
    let (found, next) = page(request, PAGE, numbered(found))?;
    let items = found.into_iter().map(|(kind, location)| {
        item()
            .text("instanceType", &kind.name)
            .text("locationType", location_type)
            .text("location", location)
    });
    let answer = Element::new("").set("instanceTypeOfferingSet", items);
    Ok(answer.text_if("nextToken", next))
}

/// Changes of the price, newest first; the last one before `StartTime` comes with them, since it was in force then.
pub(crate) fn prices(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let now = launcher.now;
    let history = SignedDuration::try_from(HISTORY).unwrap_or_default();
    let oldest = now.checked_sub(history).unwrap_or(Timestamp::MIN);
    let from: Timestamp = request.parsed("StartTime")?.unwrap_or(oldest);
    let to: Timestamp = request.parsed("EndTime")?.unwrap_or(now);
    let (from, to) = (from.clamp(oldest, now), to.min(now));
    if request
        .parsed::<Timestamp>("EndTime")?
        .is_some_and(|end| end < from)
    {
        let message = "The end time must not be before the start time";
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    let names = request.texts("InstanceType");
    let products = request.texts("ProductDescription");
    let zone_asked = request
        .text("AvailabilityZone")
        .filter(|zone| !zone.is_empty());
    let known = [
        "availability-zone",
        "availability-zone-id",
        "instance-type",
        "product-description",
    ];
    let filters = Filters::of(request, &known)?;
    launcher.dry_run(request)?;
    // AWS keeps one price under both names of the product.
    let product = |name: &&str| [PRODUCT, "Linux/UNIX (Amazon VPC)"].contains(name);
    let sold = products.is_empty() || products.iter().any(product);
    let mut found = Vec::new();
    for kind in state.market.kinds() {
        for zone in state.market.zones() {
            let asked = sold
                && (names.is_empty() || names.contains(&kind.name.as_str()))
                && zone_asked.is_none_or(|asked| asked == zone.name.as_str())
                && filters.match_all(|name| match name {
                    "availability-zone" => vec![zone.name.as_str()],
                    "availability-zone-id" => vec![zone.id.as_str()],
                    "instance-type" => vec![kind.name.as_str()],
                    _ => vec![PRODUCT, "Linux/UNIX (Amazon VPC)"],
                });
            if !asked {
                continue;
            }
            let changes = state.market.history(&kind.name, &zone.name, from, to);
            let changes = changes.into_iter().rev();
            found.extend(changes.map(|(at, micros)| (kind, zone, at, micros)));
        }
    }
    let (found, next) = page(request, PRICE_PAGE, numbered(found))?;
    let items = found.into_iter().map(|(kind, zone, at, micros)| {
        item()
            .text("instanceType", &kind.name)
            .text("productDescription", PRODUCT)
            .text("spotPrice", dollars(micros))
            .text("timestamp", stamp(at))
            .text("availabilityZone", &zone.name)
            .text("availabilityZoneId", &zone.id)
    });
    let answer = Element::new("").set("spotPriceHistorySet", items);
    // AWS ends a listing of prices with an empty token.
    Ok(answer.text("nextToken", next.unwrap_or_default()))
}
