//! The answers to NATS requests.

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use spotreel_bus::names;
use spotreel_domain::TaskId;
use spotreel_domain::api::{ApiError, ListQuery, SubmitResult, TaskRef};

use crate::caller::Caller;
use crate::parse::{self, Submission};
use crate::submit::{self, Door, Intake};
use crate::{error, keys};

const CALLER: Caller = Caller::Trusted;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Submit,
    Get,
    List,
    Cancel,
    Retry,
    CreateKey,
    ListKeys,
    RevokeKey,
}

impl Verb {
    pub const ALL: [Self; 8] = [
        Self::Submit,
        Self::Get,
        Self::List,
        Self::Cancel,
        Self::Retry,
        Self::CreateKey,
        Self::ListKeys,
        Self::RevokeKey,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Get => "get",
            Self::List => "list",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::CreateKey => "create-key",
            Self::ListKeys => "list-keys",
            Self::RevokeKey => "revoke-key",
        }
    }

    pub fn subject(self) -> &'static str {
        match self {
            Self::Submit => names::SUBMIT,
            Self::Get => names::GET,
            Self::List => names::LIST,
            Self::Cancel => names::CANCEL,
            Self::Retry => names::RETRY,
            Self::CreateKey => names::OPS_KEY_CREATE,
            Self::ListKeys => names::OPS_KEY_LIST,
            Self::RevokeKey => names::OPS_KEY_REVOKE,
        }
    }
}

/// Carries out one request.
pub async fn answer(
    intake: &Arc<Intake>,
    verb: Verb,
    payload: &[u8],
    headers: Option<&HeaderMap>,
) -> Result<Vec<u8>, ApiError> {
    let kind = headers
        .and_then(|headers| headers.get("Content-Type"))
        .map(async_nats::HeaderValue::as_str);
    match verb {
        Verb::Submit => submit(intake, payload, kind).await,
        Verb::Get => get(intake, payload, kind).await,
        Verb::List => list(intake, payload, kind).await,
        Verb::Cancel => cancel(intake, payload, kind).await,
        Verb::Retry => retry(intake, payload, kind).await,
        Verb::CreateKey => create_key(intake, payload, kind).await,
        Verb::ListKeys => list_keys(intake).await,
        Verb::RevokeKey => revoke_key(intake, payload, kind).await,
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers have string keys only, and no map that could fail")
}

async fn submit(
    intake: &Arc<Intake>,
    payload: &[u8],
    kind: Option<&str>,
) -> Result<Vec<u8>, ApiError> {
    match parse::submission(payload, kind)? {
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

async fn get(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let id = named(payload, kind)?;
    intake.get(&CALLER, &id).await.map(|view| json(&view))
}

async fn list(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let query: ListQuery = match payload {
        [] => ListQuery::default(),
        payload => parse::request(payload, kind)?,
    };
    let page = crate::list::page(intake, &CALLER, &query).await;
    page.map(|page| json(&page))
}

/// One task by its id, or those that filters name.
async fn cancel(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    if let Ok(Identified { id: false }) = parse::request(payload, kind) {
        let query = parse::request(payload, kind)?;
        let cancelled = intake.cancel_many(&CALLER, &query).await;
        return cancelled.map(|cancelled| json(&cancelled));
    }
    let id = named(payload, kind)?;
    intake.cancel(&CALLER, &id).await.map(|view| json(&view))
}

async fn retry(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let id = named(payload, kind)?;
    intake.retry(&CALLER, &id).await.map(|view| json(&view))
}

async fn create_key(
    intake: &Intake,
    payload: &[u8],
    kind: Option<&str>,
) -> Result<Vec<u8>, ApiError> {
    let order = parse::request(payload, kind)?;
    let created = keys::create(intake.log.client(), &order).await;
    created.map(|created| json(&created))
}

async fn list_keys(intake: &Intake) -> Result<Vec<u8>, ApiError> {
    let listed = keys::list(intake.log.client()).await;
    listed.map(|listed| json(&listed))
}

async fn revoke_key(
    intake: &Intake,
    payload: &[u8],
    kind: Option<&str>,
) -> Result<Vec<u8>, ApiError> {
    let named = parse::request(payload, kind)?;
    let revoked = keys::revoke(intake.log.client(), named).await;
    revoked.map(|revoked| json(&revoked))
}

fn named(payload: &[u8], kind: Option<&str>) -> Result<TaskId, ApiError> {
    let named: TaskRef = parse::request(payload, kind)?;
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
