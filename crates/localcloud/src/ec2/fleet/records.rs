//! What becomes of fleets: DescribeFleets and DeleteFleets.

use super::answer::describe;
use crate::ec2::error::Refusal;
use crate::ec2::filters::{numbered, page};
use crate::ec2::launcher::{Answer, Launcher};
use crate::ec2::query::Node;
use crate::ec2::state::{Cause, Ec2State};
use crate::ec2::xml::{Element, item};

/// AWS's limit.
const MOST_DELETED: usize = 25;
const PAGE: (usize, usize) = (1, 1000);

/// Instant fleets are told only to whoever names them: AWS lists them to nobody.
pub(crate) fn list(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    launcher.dry_run(request)?;
    let ids = request.texts("FleetId");
    let mut found = Vec::new();
    for id in ids {
        let fleet = state.fleets.get(id);
        found.push(fleet.ok_or_else(|| no_fleet(id))?);
    }
    let (found, next) = page(request, PAGE, numbered(found))?;
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
pub(crate) fn delete(state: &mut Ec2State, request: &Node, launcher: &Launcher<'_>) -> Answer {
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

fn end_all(state: &mut Ec2State, fleet_id: &str, launcher: &Launcher<'_>) {
    for instance in state.instances.values_mut() {
        if instance.blueprint.fleet_id == fleet_id {
            launcher.end(instance, Cause::User);
        }
    }
}
