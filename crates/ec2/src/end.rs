//! Terminates instances and deletes fleets, each with its own result; adds tags later.

use std::collections::HashMap;

use aws_sdk_ec2::operation::delete_fleets::DeleteFleetsOutput;
use aws_sdk_ec2::types::Tag;
use spotreel_domain::fleet::cloud::ErrorClass;

use crate::{CallError, Ec2};

/// EC2 takes more, and asks for batches of at most a hundred or so.
const TERMINATE_BATCH: usize = 100;
/// EC2's limit for instant fleets.
const DELETE_BATCH: usize = 25;
/// EC2's limit of resources a call.
const TAG_BATCH: usize = 1000;

const DELETE_FLEETS: &str = "DeleteFleets";

type PerId = Vec<(String, Result<(), CallError>)>;

impl Ec2 {
    /// Asks for the end of each. Done is only what a later listing shows as terminated.
    ///
    /// EC2 refuses the whole call for one bad id; refused batches are halved until the bad ones stand alone.
    pub async fn terminate(&self, ids: &[String]) -> PerId {
        let mut batches = Batches::of(ids, TERMINATE_BATCH);
        while let Some(batch) = batches.next() {
            let call = self.client.terminate_instances();
            let answer = call.set_instance_ids(Some(batch.to_vec())).send().await;
            let result = match answer {
                Ok(_) => Ok(batch.iter().map(|id| (id.clone(), Ok(()))).collect()),
                Err(error) => Err(CallError::new("TerminateInstances", error)),
            };
            batches.settle(batch, result);
        }
        batches.results
    }

    /// Deletes instant fleets, and with each ALL instances that it launched and that still run.
    pub async fn delete_fleets(&self, ids: &[String]) -> PerId {
        let mut batches = Batches::of(ids, DELETE_BATCH);
        while let Some(batch) = batches.next() {
            let call = self.client.delete_fleets().terminate_instances(true);
            let answer = call.set_fleet_ids(Some(batch.to_vec())).send().await;
            let result = match answer {
                Ok(answer) => Ok(deletions(batch, &answer)),
                Err(error) => Err(CallError::new(DELETE_FLEETS, error)),
            };
            batches.settle(batch, result);
        }
        batches.results
    }

    /// Sets tags on whatever has an id. All of them, or an error; safe to ask again.
    pub async fn tag(&self, ids: &[String], tags: &[(&str, &str)]) -> Result<(), CallError> {
        let tags = tags.iter();
        let tags = tags.map(|(key, value)| Tag::builder().key(*key).value(*value).build());
        let tags: Vec<_> = tags.collect();
        for batch in ids.chunks(TAG_BATCH) {
            let call = self.client.create_tags().set_tags(Some(tags.clone()));
            let call = call.set_resources(Some(batch.to_vec()));
            call.send()
                .await
                .map_err(|error| CallError::new("CreateTags", error))?;
        }
        Ok(())
    }
}

/// What the answer says of each fleet.
fn deletions(batch: &[String], answer: &DeleteFleetsOutput) -> PerId {
    let mut results = HashMap::new();
    for done in answer.successful_fleet_deletions() {
        results.extend(done.fleet_id().map(|id| (id, Ok(()))));
    }
    for failed in answer.unsuccessful_fleet_deletions() {
        let error = failed.error();
        let code = error
            .and_then(|e| e.code())
            .map_or("", |code| code.as_str());
        let message = error.and_then(|e| e.message()).unwrap_or_default();
        let error = match code {
            "unexpectedError" => CallError::NoAnswer {
                operation: DELETE_FLEETS,
                message: message.to_owned(),
            },
            code => CallError::refused(
                DELETE_FLEETS,
                ErrorClass::Configuration,
                code.to_owned(),
                message.to_owned(),
            ),
        };
        results.extend(failed.fleet_id().map(|id| (id, Err(error))));
    }
    let unsaid = || {
        Err(CallError::malformed(
            DELETE_FLEETS,
            "nothing about this fleet",
        ))
    };
    let ids = batch.iter();
    ids.map(|id| {
        (
            id.clone(),
            results.remove(id.as_str()).unwrap_or_else(unsaid),
        )
    })
    .collect()
}

/// Batches to call with. One that is refused for what it names is halved, so that the good half gets its way.
struct Batches<'a> {
    open: Vec<&'a [String]>,
    results: PerId,
}

impl<'a> Batches<'a> {
    fn of(ids: &'a [String], most: usize) -> Self {
        Self {
            open: ids.chunks(most).rev().collect(),
            results: Vec::with_capacity(ids.len()),
        }
    }

    fn next(&mut self) -> Option<&'a [String]> {
        self.open.pop()
    }

    fn settle(&mut self, batch: &'a [String], answer: Result<PerId, CallError>) {
        match answer {
            Ok(answered) => self.results.extend(answered),
            Err(error) if batch.len() > 1 && error.class() == ErrorClass::Configuration => {
                let (left, right) = batch.split_at(batch.len() / 2);
                self.open.extend([right, left]);
            }
            Err(error) => {
                let same = batch.iter().map(|id| (id.clone(), Err(error.clone())));
                self.results.extend(same);
            }
        }
    }
}
