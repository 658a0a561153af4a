//! Ending instances and fleets, each with a result of its own; and tags put on later.

use std::collections::HashMap;

use aws_sdk_ec2::types::Tag;
use spotreel_domain::fleet::cloud::ErrorClass;

use crate::{CallError, Ec2};

/// EC2 takes more, and asks for batches of at most a hundred or so.
const TERMINATE_BATCH: usize = 100;
/// EC2's limit for instant fleets.
const DELETE_BATCH: usize = 25;
/// EC2's limit of resources a call.
const TAG_BATCH: usize = 1000;

type PerId = Vec<(String, Result<(), CallError>)>;

impl Ec2 {
    /// Asks for the end of each. Done is only what a later listing shows as terminated.
    ///
    /// EC2 refuses the whole call for one bad id; refused batches are halved until the bad ones stand alone.
    pub async fn terminate(&self, ids: &[String]) -> PerId {
        const OPERATION: &str = "TerminateInstances";
        one_by_one(ids, TERMINATE_BATCH, async |batch: &[String]| {
            let call = self.client.terminate_instances();
            let call = call.set_instance_ids(Some(batch.to_vec()));
            call.send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            Ok(batch.iter().map(|id| (id.clone(), Ok(()))).collect())
        })
        .await
    }

    /// Deletes instant fleets, and with each ALL instances that it launched and that still run.
    pub async fn delete_fleets(&self, ids: &[String]) -> PerId {
        const OPERATION: &str = "DeleteFleets";
        one_by_one(ids, DELETE_BATCH, async |batch: &[String]| {
            let call = self.client.delete_fleets();
            let call = call.set_fleet_ids(Some(batch.to_vec()));
            let call = call.terminate_instances(true);
            let answer = call
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            let mut results = HashMap::new();
            for done in answer.successful_fleet_deletions() {
                results.extend(done.fleet_id().map(|id| (id.to_owned(), Ok(()))));
            }
            for failed in answer.unsuccessful_fleet_deletions() {
                let error = failed.error();
                let code = error
                    .and_then(|e| e.code())
                    .map_or("", |code| code.as_str());
                let message = error.and_then(|e| e.message()).unwrap_or_default();
                let error = match code {
                    "unexpectedError" => CallError::NoAnswer {
                        operation: OPERATION,
                        message: message.to_owned(),
                    },
                    code => CallError::refused(
                        OPERATION,
                        ErrorClass::Configuration,
                        code.to_owned(),
                        message.to_owned(),
                    ),
                };
                results.extend(failed.fleet_id().map(|id| (id.to_owned(), Err(error))));
            }
            let unsaid = || Err(CallError::malformed(OPERATION, "nothing about this fleet"));
            let result = |id: &String| results.remove(id).unwrap_or_else(unsaid);
            let ids = batch.iter();
            Ok(ids
                .map(|id| id.clone())
                .zip(batch.iter().map(result))
                .collect())
        })
        .await
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

/// Calls in batches; one that is refused for what it names is halved, so that the good half gets its way.
async fn one_by_one(
    ids: &[String],
    most: usize,
    call: impl AsyncFn(&[String]) -> Result<PerId, CallError>,
) -> PerId {
    let mut open: Vec<&[String]> = ids.chunks(most).rev().collect();
    let mut results = Vec::with_capacity(ids.len());
    while let Some(batch) = open.pop() {
        match call(batch).await {
            Ok(answered) => results.extend(answered),
            Err(error) if batch.len() > 1 && error.class() == ErrorClass::Configuration => {
                let (left, right) = batch.split_at(batch.len() / 2);
                open.extend([right, left]);
            }
            Err(error) => results.extend(batch.iter().map(|id| (id.clone(), Err(error.clone())))),
        }
    }
    results
}
