//! DescribeInstances, TerminateInstances and tags.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::error::Refusal;
use super::filters::{Filters, page};
use super::launcher::{Answer, Launcher};
use super::query::Node;
use super::state::{Cause, Ec2State, Instance, Phase, Tags, VPC_ID, stamp, well_formed};
use super::tags::{check_tags, tag_items, tag_values};
use super::xml::{Element, item};
use crate::faults::{Action, Rule};

const PAGE: (usize, usize) = (5, 1000);
/// AWS's limit.
const MOST_TAGS: usize = 50;
const CONSOLE_KEPT: usize = 64 * 1024;

const FILTERS: [&str; 12] = [
    "tag:",
    "tag-key",
    "instance-state-name",
    "instance-state-code",
    "instance-id",
    "instance-type",
    "instance-lifecycle",
    "availability-zone",
    "availability-zone-id",
    "subnet-id",
    "image-id",
    "client-token",
];

/// What a listing shows of an instance: eventual consistency may have it behind.
struct ListedInstance<'a> {
    instance: &'a Instance,
    phase: Phase,
    code: String,
}

pub(crate) fn list(
    state: &Ec2State,
    launcher: &Launcher<'_>,
    request: &Node,
    faults: &[Rule],
) -> Answer {
    let ids = request.texts("InstanceId");
    if !ids.is_empty() && request.has("MaxResults") {
        let message = "The parameter instancesSet cannot be used with the parameter maxResults";
        return Err(Refusal::new("InvalidParameterCombination", message));
    }
    check_ids(&ids)?;
    let filters = Filters::of(request, &FILTERS)?;
    launcher.dry_run(request)?;
    let mut seen: Vec<ListedInstance<'_>> = state
        .instances
        .values()
        .filter_map(|instance| look(instance, faults))
        .collect();
    seen.sort_by_key(|seen| seen.instance.sequence);
    let missing: Vec<&str> = ids
        .iter()
        .filter(|id| !seen.iter().any(|seen| seen.instance.id == **id))
        .copied()
        .collect();
    if !missing.is_empty() {
        return Err(not_found(&missing));
    }
    let found = seen.into_iter().filter(|seen| {
        (ids.is_empty() || ids.contains(&seen.instance.id.as_str()))
            && filters.match_all(|name| values(seen, name))
    });
    let (found, next) = page(
        request,
        PAGE,
        found.map(|seen| (seen.instance.sequence, seen)),
    )?;
    let reservations = found.iter().map(|seen| {
        item()
            .text(
                "reservationId",
                format!("r-{:017x}", seen.instance.sequence),
            )
            .text("ownerId", launcher.account_id())
            .set("groupSet", [])
            .set("instancesSet", [describe(seen)])
    });
    let answer = Element::new("").set("reservationSet", reservations);
    Ok(answer.text_if("nextToken", next))
}

fn look<'a>(instance: &'a Instance, faults: &[Rule]) -> Option<ListedInstance<'a>> {
    let since = instance.phases.first().map(|(at, _)| at.elapsed());
    let mut phase = instance.phase();
    for rule in faults {
        let span = Duration::from_millis(rule.for_ms);
        match rule.action {
            Action::Hide if since.is_some_and(|since| since < span) => return None,
            Action::Stale => phase = instance.phase_before(span)?,
            _ => {}
        }
    }
    Some(ListedInstance {
        instance,
        phase,
        code: phase.code().to_string(),
    })
}

fn values<'a>(seen: &'a ListedInstance<'_>, name: &str) -> Vec<&'a str> {
    let (instance, of) = (seen.instance, &seen.instance.blueprint);
    vec![match name {
        "instance-state-name" => seen.phase.name(),
        "instance-state-code" => &seen.code,
        "instance-id" => &instance.id,
        "instance-type" => &of.kind,
        "instance-lifecycle" => of.lifecycle.name(),
        "availability-zone" => &of.zone,
        "availability-zone-id" => &of.zone_id,
        "subnet-id" => &of.subnet_id,
        "image-id" => &of.image_id,
        "client-token" => &of.client_token,
        _ => return tag_values(&instance.tags, name),
    }]
}

fn check_ids(ids: &[&str]) -> Result<(), Refusal> {
    match ids.iter().find(|id| !well_formed(id, "i-")) {
        None => Ok(()),
        Some(id) => {
            let message = format!("Invalid id: \"{id}\"");
            Err(Refusal::new("InvalidInstanceID.Malformed", message))
        }
    }
}

fn not_found(ids: &[&str]) -> Refusal {
    let list = ids.join(", ");
    let message = match ids {
        [_] => format!("The instance ID '{list}' does not exist"),
        _ => format!("The instance IDs '{list}' do not exist"),
    };
    Refusal::new("InvalidInstanceID.NotFound", message)
}

/// All or nothing: one id that is not there, and none ends.
pub(crate) fn terminate(
    state: &mut Ec2State,
    launcher: &Launcher<'_>,
    request: &Node,
    faults: &[Rule],
) -> Answer {
    let ids: BTreeSet<&str> = request.texts("InstanceId").into_iter().collect();
    if ids.is_empty() {
        return Err(Refusal::missing("InstanceId"));
    }
    let ids: Vec<&str> = ids.into_iter().collect();
    check_ids(&ids)?;
    let known = |id: &&str| state.instances.contains_key(*id);
    let missing: Vec<&str> = ids.iter().filter(|id| !known(id)).copied().collect();
    if !missing.is_empty() {
        return Err(not_found(&missing));
    }
    launcher.dry_run(request)?;
    let slow = faults
        .iter()
        .find(|rule| rule.action == Action::TerminateSlowly)
        .map(|rule| Duration::from_millis(rule.for_ms));
    let mut items = Vec::new();
    for id in ids {
        let Some(instance) = state.instances.get_mut(id) else {
            continue;
        };
        let previous = instance.phase();
        let current = match slow {
            // Answered as ever, but for now it stays what it was.
            Some(span) if previous.occupies() => {
                launcher.end_later(id, span);
                Phase::ShuttingDown
            }
            _ => {
                launcher.end(instance, Cause::User);
                instance.phase()
            }
        };
        items.push(
            item()
                .text("instanceId", id)
                .with(describe_phase("currentState", current))
                .with(describe_phase("previousState", previous)),
        );
    }
    Ok(Element::new("").set("instancesSet", items))
}

/// The end of what the machine has written, as much as AWS keeps.
pub(crate) fn console(state: &mut Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let id = request.required("InstanceId")?;
    check_ids(&[id])?;
    if !state.instances.contains_key(id) {
        return Err(not_found(&[id]));
    }
    launcher.dry_run(request)?;
    let written = launcher.console(id);
    let kept = &written[written.len().saturating_sub(CONSOLE_KEPT)..];
    let answer = Element::new("")
        .text("instanceId", id)
        .text("timestamp", stamp(launcher.now));
    Ok(answer.text("output", BASE64_STANDARD.encode(kept)))
}

pub(crate) fn create_tags(state: &mut Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let tags = request.tags()?;
    if tags.is_empty() {
        return Err(Refusal::missing("Tag"));
    }
    check_tags(&tags)?;
    let resources = resources(state, request)?;
    launcher.dry_run(request)?;
    for id in resources {
        let Some(kept) = tags_of(state, id) else {
            continue;
        };
        let mut merged = kept.clone();
        merged.extend(tags.clone());
        if merged.keys().filter(|key| !key.starts_with("aws:")).count() > MOST_TAGS {
            let message = format!("More than {MOST_TAGS} tags specified");
            return Err(Refusal::new("TagLimitExceeded", message));
        }
        *kept = merged;
        show_tags(state, id);
    }
    Ok(Element::new("").text("return", true))
}

pub(crate) fn delete_tags(state: &mut Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let resources = resources(state, request)?;
    launcher.dry_run(request)?;
    for id in resources {
        let Some(kept) = tags_of(state, id) else {
            continue;
        };
        let named = request.list("Tag");
        if named.is_empty() {
            kept.retain(|key, _| key.starts_with("aws:"));
        }
        for tag in named {
            let key = tag.required("Key")?;
            // With a value the tag goes only if it has that value.
            let same = |value| kept.get(key).is_some_and(|kept| kept == value);
            if tag.text("Value").is_none_or(same) {
                kept.remove(key);
            }
        }
        show_tags(state, id);
    }
    Ok(Element::new("").text("return", true))
}

/// The machine sees its tags change.
fn show_tags(state: &Ec2State, id: &str) {
    if let Some(instance) = state.instances.get(id)
        && let Some(imds) = &instance.imds
    {
        imds.set_tags(instance.tags.clone());
    }
}

fn resources<'a>(state: &mut Ec2State, request: &'a Node) -> Result<Vec<&'a str>, Refusal> {
    let ids = request.texts("ResourceId");
    if ids.is_empty() {
        return Err(Refusal::missing("ResourceId"));
    }
    for id in &ids {
        if tags_of(state, id).is_none() {
            return Err(if id.starts_with("i-") {
                not_found(&[id])
            } else {
                Refusal::new("InvalidID", format!("The ID '{id}' is not valid"))
            });
        }
    }
    Ok(ids)
}

fn tags_of<'a>(state: &'a mut Ec2State, id: &str) -> Option<&'a mut Tags> {
    let Ec2State {
        instances,
        fleets,
        templates,
        ..
    } = state;
    if let Some(instance) = instances.get_mut(id) {
        return Some(&mut instance.tags);
    }
    if let Some(fleet) = fleets.get_mut(id) {
        return Some(&mut fleet.tags);
    }
    templates.get_mut(id).map(|template| &mut template.tags)
}

fn describe_phase(name: &str, phase: Phase) -> Element {
    Element::new(name)
        .text("code", phase.code())
        .text("name", phase.name())
}

fn describe(seen: &ListedInstance<'_>) -> Element {
    let (instance, phase) = (seen.instance, seen.phase);
    let of = &instance.blueprint;
    let over = matches!(
        phase,
        Phase::ShuttingDown | Phase::Terminated | Phase::Stopped
    );
    let cause = instance.cause.filter(|_| over);
    let transition = cause.map(|cause| match cause {
        Cause::User => {
            let at = instance.ending.unwrap_or(instance.launched);
            format!("User initiated ({})", at.strftime("%Y-%m-%d %H:%M:%S GMT"))
        }
        Cause::Spot => cause.code().to_owned(),
        Cause::Itself | Cause::Fault => String::new(),
    });
    let placement = Element::new("placement")
        .text("availabilityZone", &of.zone)
        .text("availabilityZoneId", &of.zone_id)
        .text("tenancy", "default");
    let mut element = item()
        .text("instanceId", &instance.id)
        .text("imageId", &of.image_id)
        .with(describe_phase("instanceState", phase))
        .text("reason", transition.unwrap_or_default())
        .text("amiLaunchIndex", 0)
        .text("instanceType", &of.kind)
        .text("launchTime", stamp(instance.launched))
        .with(placement)
        .with(Element::new("monitoring").text("state", "disabled"))
        .text("architecture", "x86_64")
        .text("hypervisor", "xen")
        .text("virtualizationType", "hvm")
        .text("rootDeviceType", "ebs")
        .text("rootDeviceName", "/dev/xvda")
        .text("clientToken", &of.client_token)
        .set("groupSet", [])
        .set("tagSet", tag_items(&instance.tags));
    // A machine that is gone has no address any more.
    if phase != Phase::Terminated {
        element = element
            .text("subnetId", &of.subnet_id)
            .text("vpcId", VPC_ID)
            .text("privateIpAddress", &instance.private_ip)
            .text("ipAddress", &instance.public_ip);
    }
    if of.lifecycle == super::state::Lifecycle::Spot {
        element = element.text("instanceLifecycle", "spot").text(
            "spotInstanceRequestId",
            format!("sir-{:08x}", instance.sequence),
        );
    }
    match cause {
        Some(cause) => element.with(
            Element::new("stateReason")
                .text("code", cause.code())
                .text("message", cause.message()),
        ),
        None => element,
    }
}
