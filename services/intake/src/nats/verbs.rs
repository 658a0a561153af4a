//! The answers to NATS requests.

use std::sync::Arc;

use async_nats::Client;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use spotreel_bus::reply::json;
use spotreel_bus::service::Request;
use spotreel_domain::TaskId;
use spotreel_domain::api::{ApiError, ListQuery, SubmitResult, TaskRef};

use crate::caller::Caller;
use crate::parse::{self, Submission};
use crate::submit::{self, Door, Intake};
use crate::{error, keys};

const CALLER: Caller = Caller::Trusted;

type Answer = Result<Vec<u8>, ApiError>;

pub async fn submit(intake: Arc<Intake>, request: Request) -> Answer {
    match parse::submission(&request.payload, request.content_type.as_deref())? {
        Submission::One(request) => {
            intake.limits.pace(1)?;
            let requests = vec![Ok(*request)];
            let mut outcomes = intake.submit(requests, Door::Request, &CALLER).await;
            outcomes.remove(0).map(|accepted| json(&accepted))
        }
        Submission::Many(requests) => {
            intake.limits.pace(requests.len())?;
            let outcomes = intake.submit(requests, Door::Request, &CALLER).await;
            Ok(many(outcomes, intake.log.client()))
        }
    }
}

/// Ten thousand refusals with all their details may be more than a message holds: then the details go.
fn many(outcomes: Vec<crate::submit::Outcome>, client: &Client) -> Vec<u8> {
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

pub async fn get(intake: Arc<Intake>, request: Request) -> Answer {
    let id = named(&request)?;
    intake.get(&CALLER, &id).await.map(|view| json(&view))
}

pub async fn list(intake: Arc<Intake>, request: Request) -> Answer {
    let query: ListQuery = match request.payload.is_empty() {
        true => ListQuery::default(),
        false => parsed(&request)?,
    };
    let page = crate::list::page(&intake, &CALLER, &query).await;
    page.map(|page| json(&page))
}

/// One task by its id, or those that filters name.
pub async fn cancel(intake: Arc<Intake>, request: Request) -> Answer {
    if let Ok(Identified { id: false }) = parsed(&request) {
        let query = parsed(&request)?;
        let cancelled = intake.cancel_many(&CALLER, &query).await;
        return cancelled.map(|cancelled| json(&cancelled));
    }
    let id = named(&request)?;
    intake.cancel(&CALLER, &id).await.map(|view| json(&view))
}

pub async fn retry(intake: Arc<Intake>, request: Request) -> Answer {
    let id = named(&request)?;
    intake.retry(&CALLER, &id).await.map(|view| json(&view))
}

pub async fn create_key(intake: Arc<Intake>, request: Request) -> Answer {
    let order = parsed(&request)?;
    let created = keys::create(intake.log.client(), &order).await;
    created.map(|created| json(&created))
}

pub async fn list_keys(intake: Arc<Intake>, _: Request) -> Answer {
    let listed = keys::list(intake.log.client()).await;
    listed.map(|listed| json(&listed))
}

pub async fn revoke_key(intake: Arc<Intake>, request: Request) -> Answer {
    let named = parsed(&request)?;
    let revoked = keys::revoke(intake.log.client(), named).await;
    revoked.map(|revoked| json(&revoked))
}

fn parsed<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    parse::request(&request.payload, request.content_type.as_deref())
}

fn named(request: &Request) -> Result<TaskId, ApiError> {
    let named: TaskRef = parsed(request)?;
    TaskId::parse(&named.id).map_err(|bad| error::broken("id", "token", bad.to_string()))
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
