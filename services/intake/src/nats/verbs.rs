//! The verbs that intake answers over NATS.

use std::sync::Arc;

use async_nats::Client;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use spotreel_api::{ApiError, ListQuery, SubmitResult};
use spotreel_bus::reply::json;
use spotreel_bus::service::Request;
use spotreel_bus::{Room, Service, names};
use spotreel_domain::TaskId;

use super::pace::BytePace;
use crate::intake::Intake;
use crate::keys::Caller;
use crate::submit::parse::{self, Submission};
use crate::submit::{self, Origin};
use crate::{keys, tasks};

const CALLER: Caller = Caller::Trusted;

type Answer = Result<Vec<u8>, ApiError>;

pub fn all(intake: &Arc<Intake>, room: Room, pace: Arc<BytePace>) -> Service<Intake> {
    let description = "submissions, and questions about tasks";
    Service::new("intake", description, intake, room)
        .paced(move |bytes| pace.check(bytes))
        .raw("submit", names::SUBMIT, submit)
        .raw("get", names::GET, get)
        .raw("list", names::LIST, list)
        .raw("cancel", names::CANCEL, cancel)
        .raw("retry", names::RETRY, retry)
        .raw("create-key", names::OPS_KEY_CREATE, create_key)
        .raw("list-keys", names::OPS_KEY_LIST, list_keys)
        .raw("revoke-key", names::OPS_KEY_REVOKE, revoke_key)
}

async fn submit(intake: Arc<Intake>, request: Request) -> Answer {
    match parse::submission(&request.payload, request.content_type.as_deref())? {
        Submission::One(request) => {
            intake.limits.pace(1)?;
            let requests = vec![Ok(*request)];
            let mut outcomes = intake.submit(requests, Origin::Request, &CALLER).await;
            outcomes.remove(0).map(|accepted| json(&accepted))
        }
        Submission::Many(requests) => {
            intake.limits.pace(requests.len())?;
            let outcomes = intake.submit(requests, Origin::Request, &CALLER).await;
            Ok(many(outcomes, intake.log.client()))
        }
    }
}

/// Ten thousand refusals with all their details may be more than a message holds: then the details go.
fn many(outcomes: Vec<submit::Outcome>, client: &Client) -> Vec<u8> {
    let mut answer = submit::sum(outcomes);
    let body = json(&answer);
    if body.len() <= client.max_payload() - spotreel_bus::reply::HEADERS {
        return body;
    }
    for result in &mut answer.results {
        if let SubmitResult::Refused { error } = result {
            error.violations.truncate(1);
            for violation in &mut error.violations {
                violation.message.clear();
            }
        }
    }
    json(&answer)
}

async fn get(intake: Arc<Intake>, request: Request) -> Answer {
    let id = named(&request)?;
    intake.get(&CALLER, &id).await.map(|view| json(&view))
}

async fn list(intake: Arc<Intake>, request: Request) -> Answer {
    let query: ListQuery = match request.payload.is_empty() {
        true => ListQuery::default(),
        false => parsed(&request)?,
    };
    let page = tasks::list::page(&intake, &CALLER, &query).await;
    page.map(|page| json(&page))
}

/// One task by its id, or those that filters name.
async fn cancel(intake: Arc<Intake>, request: Request) -> Answer {
    if let Ok(Identified { id: false }) = parsed(&request) {
        let query = parsed(&request)?;
        let cancelled = intake.cancel_many(&CALLER, &query).await;
        return cancelled.map(|cancelled| json(&cancelled));
    }
    let id = named(&request)?;
    intake.cancel(&CALLER, &id).await.map(|view| json(&view))
}

async fn retry(intake: Arc<Intake>, request: Request) -> Answer {
    let id = named(&request)?;
    intake.retry(&CALLER, &id).await.map(|view| json(&view))
}

async fn create_key(intake: Arc<Intake>, request: Request) -> Answer {
    let order = parsed(&request)?;
    let created = keys::create(intake.log.client(), &order).await;
    created.map(|created| json(&created))
}

async fn list_keys(intake: Arc<Intake>, _: Request) -> Answer {
    let listed = keys::list(intake.log.client()).await;
    listed.map(|listed| json(&listed))
}

async fn revoke_key(intake: Arc<Intake>, request: Request) -> Answer {
    let named = parsed(&request)?;
    let revoked = keys::revoke(intake.log.client(), named).await;
    revoked.map(|revoked| json(&revoked))
}

fn parsed<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    parse::request(&request.payload, request.content_type.as_deref())
}

fn named(request: &Request) -> Result<TaskId, ApiError> {
    parse::task_id(&request.payload, request.content_type.as_deref())
}

/// Whether a request has an id, good or bad.
#[derive(Deserialize)]
struct Identified {
    #[serde(default, deserialize_with = "is_there")]
    id: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}
