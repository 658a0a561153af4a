//! The answers to requests.

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use serde::Serialize;
use spotreel_bootstrap::ambient;
use spotreel_bus::log::Append;
use spotreel_bus::{AppendError, Recorded, names};
use spotreel_domain::api::{
    AcceptedMany, ApiError, ErrorReply, ListQuery, SubmitResult, TaskRef, TaskView,
};
use spotreel_domain::task::{Event, Refused, State};
use spotreel_domain::{Task, TaskId};

use crate::error;
use crate::parse::{self, Submission};
use crate::submit::{Door, Intake, now, unwritten};

/// Somebody else wrote first so many times in a row: more is no coincidence.
const CAS_TRIES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Submit,
    Get,
    List,
    Cancel,
    Retry,
}

/// An answer, ready to be sent.
pub struct Reply {
    pub body: Vec<u8>,
    pub headers: HeaderMap,
}

impl Verb {
    pub const ALL: [Self; 5] = [
        Self::Submit,
        Self::Get,
        Self::List,
        Self::Cancel,
        Self::Retry,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Get => "get",
            Self::List => "list",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }

    pub fn subject(self) -> &'static str {
        match self {
            Self::Submit => names::SUBMIT,
            Self::Get => names::GET,
            Self::List => names::LIST,
            Self::Cancel => names::CANCEL,
            Self::Retry => names::RETRY,
        }
    }
}

/// Carries out one request.
pub async fn answer(
    intake: &Arc<Intake>,
    verb: Verb,
    payload: &[u8],
    headers: Option<&HeaderMap>,
) -> Reply {
    let kind = headers
        .and_then(|headers| headers.get("Content-Type"))
        .map(async_nats::HeaderValue::as_str);
    let answered = match verb {
        Verb::Submit => submit(intake, payload, kind).await,
        Verb::Get => get(intake, payload, kind).await,
        Verb::List => list(intake, payload, kind).await,
        Verb::Cancel => cancel(intake, payload, kind).await,
        Verb::Retry => retry(intake, payload, kind).await,
    };
    match answered {
        Ok(body) => Reply {
            body,
            headers: HeaderMap::new(),
        },
        Err(error) => refusal(error),
    }
}

fn refusal(error: ApiError) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Service-Error-Code",
        error.code.status().to_string().as_str(),
    );
    // A header is one line.
    let line: String = error
        .message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    headers.insert("Nats-Service-Error", line.as_str());
    Reply {
        body: json(&ErrorReply { error }),
        headers,
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
            let mut outcomes = intake.submit(vec![Ok(*request)], Door::Request).await;
            outcomes.remove(0).map(|accepted| json(&accepted))
        }
        Submission::Many(requests) => {
            intake.limits.pace(requests.len())?;
            let outcomes = intake.submit(requests, Door::Request).await;
            Ok(many(outcomes, intake.log.client()))
        }
    }
}

/// Ten thousand refusals with all their details may be more than a message holds: then the details go.
fn many(outcomes: Vec<crate::submit::Outcome>, client: &Client) -> Vec<u8> {
    let accepted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes.len() - accepted;
    let results = outcomes.into_iter().map(|outcome| match outcome {
        Ok(accepted) => SubmitResult::Accepted(accepted),
        Err(error) => SubmitResult::Refused { error },
    });
    let mut answer = AcceptedMany {
        accepted,
        refused,
        results: results.collect(),
    };
    let body = json(&answer);
    if body.len() <= client.max_payload() {
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
    let last = newest(intake, &id).await?;
    Ok(json(
        &intake
            .images
            .link(TaskView::from(&last.task), ambient::now())
            .await,
    ))
}

async fn list(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let query: ListQuery = match payload {
        [] => ListQuery::default(),
        payload => parse::request(payload, kind)?,
    };
    crate::list::page(intake, &query)
        .await
        .map(|page| json(&page))
}

async fn cancel(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let id = named(payload, kind)?;
    let task = change(intake, &id, State::Cancelled, |task| task.cancelled(now())).await?;
    forget(intake, &id, task.entry).await;
    Ok(json(&TaskView::from(&task)))
}

async fn retry(intake: &Intake, payload: &[u8], kind: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let id = named(payload, kind)?;
    intake.limits.pace(1)?;
    intake.limits.admit()?;
    // No task is done already: one that is queued was not ended, so there is nothing to retry.
    let task = change(intake, &id, None, |task| task.requeued(now())).await?;
    forget(intake, &id, task.previous_entry).await;
    Ok(json(&TaskView::from(&task)))
}

/// Takes the step by compare-and-set, until it is taken or the state does not allow it. A task that is in `done`
/// already stays as it is: the same request again gets the same answer.
async fn change(
    intake: &Intake,
    id: &TaskId,
    done: impl Into<Option<State>>,
    step: impl Fn(&Task) -> Result<(Event, Task), Refused>,
) -> Result<Task, ApiError> {
    let done = done.into();
    let mut last = newest(intake, id).await?;
    for _ in 0..CAS_TRIES {
        if done.as_ref() == Some(&last.task.state) {
            return Ok(last.task);
        }
        let (event, task) = step(&last.task).map_err(|refused| error::not_allowed(id, &refused))?;
        let append = Append::new((event, task.clone()), last.sequence, ambient::uuid_v4());
        match intake.log.append(&append).await {
            Ok(sequence) => return Ok(task.placed_at(sequence, event)),
            Err(AppendError::Conflict(Some(newer))) => last = *newer,
            Err(AppendError::Conflict(None)) => return Err(error::not_found(id)),
            Err(failure) => return Err(unwritten(&failure)),
        }
    }
    Err(error::unavailable(
        "others change this task at the same moment",
    ))
}

/// Takes an old work item out of the log, and tells whoever renders it. Neither must succeed: monitor's sweeper
/// removes what stays, and a worker reads the log at its next renewal.
async fn forget(intake: &Intake, id: &TaskId, entry: u64) {
    if entry != 0
        && let Err(failure) = intake.log.delete(entry).await
    {
        tracing::warn!(error = %failure, task = %id, entry, "an old work item stays until it is swept");
    }
    let _ = intake
        .log
        .client()
        .publish(names::hint(id), "".into())
        .await;
}

async fn newest(intake: &Intake, id: &TaskId) -> Result<Recorded, ApiError> {
    let last = intake
        .log
        .last(id)
        .await
        .map_err(|failure| error::unread(&failure))?;
    last.ok_or_else(|| error::not_found(id))
}

fn named(payload: &[u8], kind: Option<&str>) -> Result<TaskId, ApiError> {
    let named: TaskRef = parse::request(payload, kind)?;
    TaskId::parse(&named.id).map_err(|bad| error::broken("id", "token", bad.to_string()))
}
