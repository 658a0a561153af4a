//! Pages of tasks, newest change first, read from the log backwards.
//!
//! A task is shown at its newest event. Between two pages a task may change: it then stands on top, before the first
//! page, and is missing from the later ones; no page shows a state that is not the task's newest.

use std::collections::HashSet;

use jiff::Timestamp;
use spotreel_api::{ApiError, ListPage, ListQuery};
use spotreel_bus::Recorded;
use spotreel_bus::names::{EVERY_SUBJECT, TASKS};
use spotreel_domain::{Model, Owner, Task, TaskId};

use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;
/// Sequences that one look at the log covers. The first covers a few for each task of the page, each next one twice as many.
const WINDOW: usize = 500;
const FIRST_WINDOW_A_TASK: usize = 4;
/// Looks at the log in one call; with a filter that fits nothing the page ends there, with a cursor to go on.
const MAX_WINDOWS: usize = 40;
/// A page ends below the size of a message, and is no burden while a slow client reads it.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Tasks whose newest event is asked for in one call: a second or two on a cluster.
const MAX_LOOKUPS: usize = 1_000;
const STATES: [&str; 6] = [
    "queued",
    "started",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
];
/// States of tasks that have not ended.
const LIVE: [&str; 2] = ["queued", "started"];

/// Which tasks are meant.
pub struct Filter {
    state: Option<String>,
    model: Option<Model>,
    label: Option<String>,
    owner: Option<Owner>,
    id_prefix: Option<String>,
    /// By the log's clock, in whose order pages are.
    since: Option<Timestamp>,
    /// Only those that have not ended.
    live: bool,
}

pub async fn page(
    intake: &Intake,
    caller: &Caller,
    query: &ListQuery,
) -> Result<ListPage, ApiError> {
    let (filter, limit) = check(caller, query, DEFAULT_LIMIT)?;
    walk(intake, caller, &filter, query.cursor, limit).await
}

/// The tasks that have not ended and that the query names, from its cursor on. A query that would name all tasks is refused.
pub async fn live(
    intake: &Intake,
    caller: &Caller,
    query: &ListQuery,
) -> Result<(Filter, ListPage), ApiError> {
    let (mut filter, limit) = check(caller, query, MAX_LIMIT)?;
    filter.live = true;
    let ListQuery {
        state,
        model,
        label,
        owner,
        ..
    } = query;
    if [state, model, label, owner]
        .iter()
        .all(|named| named.is_none())
    {
        let message =
            "name the tasks to cancel: one by its id, or many by label, state, model or owner";
        return Err(error::broken("id", "required", message));
    }
    if let Some(state) = state
        .as_ref()
        .filter(|state| !LIVE.contains(&state.as_str()))
    {
        let message = format!("state is queued or started: a task that is {state} has ended");
        return Err(error::broken("state", "known", message));
    }
    let page = walk(intake, caller, &filter, query.cursor, limit).await?;
    Ok((filter, page))
}

async fn walk(
    intake: &Intake,
    caller: &Caller,
    filter: &Filter,
    cursor: Option<u64>,
    limit: usize,
) -> Result<ListPage, ApiError> {
    let (first, last) = bounds(intake).await?;
    // One past the newest message that is looked at.
    let mut end = cursor.map_or(last + 1, |cursor| cursor.min(last + 1));
    let from_the_top = end > last;
    let mut page = ListPage {
        tasks: Vec::new(),
        next_cursor: None,
    };
    let mut seen = HashSet::new();
    let (mut bytes, mut lookups) = (0, 0);
    // The task that reaches it may be as large again.
    let most_bytes = MAX_PAGE_BYTES.min(intake.log.client().max_payload() / 2);
    let mut covered = WINDOW.min(limit * FIRST_WINDOW_A_TASK);
    for _ in 0..MAX_WINDOWS {
        if end <= first {
            return Ok(page);
        }
        let start = end.saturating_sub(covered as u64).max(first);
        let page_of_log = intake.log.page(EVERY_SUBJECT, start, covered).await;
        let mut window = page_of_log
            .map_err(|failure| error::unread(&failure))?
            .events;
        // Where messages are missing, the window reaches beyond its end.
        window.retain(|recorded| recorded.sequence < end);
        for recorded in window.into_iter().rev() {
            if filter.since.is_some_and(|since| recorded.stored_at < since) {
                return Ok(page);
            }
            let new = seen.insert(recorded.task.id.clone());
            if !new || !caller.may_see(&recorded.task) || !filter.fits(&recorded.task) {
                continue;
            }
            let sequence = recorded.sequence;
            let newest = if from_the_top {
                recorded
            } else if lookups == MAX_LOOKUPS {
                page.next_cursor = Some(sequence + 1);
                return Ok(page);
            } else {
                lookups += 1;
                match newest(intake, recorded, filter).await? {
                    Some(newest) if caller.may_see(&newest.task) => newest,
                    _ => continue,
                }
            };
            let view = intake.progress.view(&newest);
            bytes += serde_json::to_vec(&view).map_or(0, |json| json.len());
            page.tasks.push(view);
            if page.tasks.len() >= limit || bytes >= most_bytes {
                page.next_cursor = Some(sequence).filter(|sequence| *sequence > first);
                return Ok(page);
            }
        }
        end = start;
        covered = WINDOW.min(covered * 2);
    }
    page.next_cursor = Some(end).filter(|end| *end > first);
    Ok(page)
}

fn check(
    caller: &Caller,
    query: &ListQuery,
    default_limit: u32,
) -> Result<(Filter, usize), ApiError> {
    let mut broken = Vec::new();
    if query
        .state
        .as_ref()
        .is_some_and(|state| !STATES.contains(&state.as_str()))
    {
        broken.push(error::violation(
            "state",
            "known",
            format!("state is one of {}", STATES.join(", ")),
        ));
    }
    let model = query.model.as_ref().map(|name| Model::parse(name));
    if model == Some(None) {
        let names = Model::ALL.map(Model::as_str).join(", ");
        broken.push(error::violation(
            "model",
            "known",
            format!("model is one of {names}"),
        ));
    }
    let owner = query.owner.as_deref().map(Owner::parse).transpose();
    match &owner {
        Err(bad) => broken.push(error::violation("owner", "token", bad.to_string())),
        Ok(Some(owner)) if !caller.may_see_of(Some(owner)) => {
            let message = "this key sees the tasks of its own owner only: leave owner out";
            broken.push(error::violation("owner", "access", message));
        }
        Ok(_) => {}
    }
    if query.label.as_deref() == Some("") {
        let message = "label is key=value, or a key alone for any value";
        broken.push(error::violation("label", "format", message));
    }
    if let Some(Err(bad)) = query.id_prefix.as_deref().map(TaskId::parse) {
        broken.push(error::violation("id_prefix", "token", bad.to_string()));
    }
    let limit = query.limit.unwrap_or(default_limit);
    if !(1..=MAX_LIMIT).contains(&limit) {
        broken.push(error::violation(
            "limit",
            "range",
            format!("limit is 1 to {MAX_LIMIT}"),
        ));
    }
    if query
        .cursor
        .is_some_and(|cursor| i64::try_from(cursor).is_err())
    {
        let message = "cursor is what next_cursor of the page before was";
        broken.push(error::violation("cursor", "range", message));
    }
    match broken.is_empty() {
        true => Ok((
            Filter {
                state: query.state.clone(),
                model: model.flatten(),
                label: query.label.clone(),
                owner: owner.ok().flatten(),
                id_prefix: query.id_prefix.clone(),
                since: query.since,
                live: false,
            },
            limit as usize,
        )),
        false => Err(error::invalid(broken)),
    }
}

impl Filter {
    pub fn fits(&self, task: &Task) -> bool {
        let state = self.state.as_ref();
        let prefix = self.id_prefix.as_ref();
        state.is_none_or(|state| task.state.name() == state)
            && !(self.live && task.is_terminal())
            && self.model.is_none_or(|model| task.spec.model == model)
            && (self.owner.is_none() || self.owner == task.owner)
            && prefix.is_none_or(|prefix| task.id.as_str().starts_with(prefix))
            && self
                .label
                .as_ref()
                .is_none_or(|label| has_label(task, label))
    }
}

/// A key may hold an equals sign, too.
fn has_label(task: &Task, label: &str) -> bool {
    task.spec.labels.iter().any(|(key, value)| {
        let rest = label.strip_prefix(key.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('=') == Some(value))
    })
}

/// The first and the last sequence of the log.
async fn bounds(intake: &Intake) -> Result<(u64, u64), ApiError> {
    let context = async_nats::jetstream::new(intake.log.client().clone());
    let stream = context
        .get_stream_no_info(TASKS)
        .await
        .expect("TASKS is a valid stream name");
    match stream.get_info().await {
        Ok(info) => Ok((info.state.first_sequence, info.state.last_sequence)),
        Err(failure) => {
            tracing::warn!(error = %spotreel_domain::chain(&failure), "reading the task log failed");
            Err(error::unavailable("the task log cannot be read now"))
        }
    }
}

/// The task's newest event, if that is this one. Where all live tasks are wanted, a newer one is as good: the pages before
/// this one, where it would stand now, have been read.
async fn newest(
    intake: &Intake,
    recorded: Recorded,
    filter: &Filter,
) -> Result<Option<Recorded>, ApiError> {
    let last = intake.log.last(&recorded.task.id).await;
    let last = last.map_err(|failure| error::unread(&failure))?;
    Ok(last.filter(|last| {
        last.sequence == recorded.sequence || (filter.live && filter.fits(&last.task))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submit::parse;

    #[test]
    fn each_refusal_of_a_query_names_its_field_and_rule() {
        for (query, field, rule) in [
            ("[]", "body", "object"),
            ("\0", "body", "object"),
            (r#"{"limit":0}"#, "limit", "range"),
            (r#"{"limit":501}"#, "limit", "range"),
            (r#"{"limit":4294967296}"#, "limit", "range"),
            (r#"{"limit":-0}"#, "limit", "range"),
            (r#"{"limit":1.5}"#, "limit", "type"),
            (r#"{"limit":"10"}"#, "limit", "type"),
            (r#"{"limit":true}"#, "limit", "type"),
            (r#"{"limit":1,"limit":2}"#, "limit", "once"),
            (r#"{"page":1}"#, "page", "unknown"),
            (r#"{"cursor":-1}"#, "cursor", "range"),
            (r#"{"cursor":18446744073709551616}"#, "cursor", "range"),
            (r#"{"cursor":1e999}"#, "cursor", "range"),
            (r#"{"state":"done"}"#, "state", "known"),
            (r#"{"state":"queued\u0000"}"#, "state", "known"),
            (r#"{"state":["queued"]}"#, "state", "type"),
            (r#"{"state":""}"#, "state", "known"),
            (r#"{"model":"wan"}"#, "model", "known"),
            (r#"{"model":""}"#, "model", "known"),
            (r#"{"model":">"}"#, "model", "known"),
            (r#"{"label":""}"#, "label", "format"),
            (r#"{"owner":"*"}"#, "owner", "token"),
            (r#"{"id_prefix":">"}"#, "id_prefix", "token"),
            (r#"{"since":1e999}"#, "since", "range"),
        ] {
            let parsed = parse::request::<ListQuery>(query.as_bytes(), None);
            let checked = parsed.and_then(|query| check(&Caller::Trusted, &query, DEFAULT_LIMIT));
            let refused = checked.err().expect("it is refused");
            let first = &refused.violations[0];
            assert_eq!((&*first.field, &*first.rule), (field, rule), "{query}");
        }
    }
}
