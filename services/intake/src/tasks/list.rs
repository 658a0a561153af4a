//! Pages of tasks, newest change first, read from the log backwards.
//!
//! A task is shown at its newest event. Between two pages a task may change: it then stands on top, before the first
//! page, and is missing from the later ones; no page shows a state that is not the task's newest.

use std::collections::HashSet;

use spotreel_api::{ApiError, ListPage, ListQuery, MAX_LIST_LIMIT, TaskList};
use spotreel_bus::Recorded;
use spotreel_bus::names::{EVERY_SUBJECT, TASKS};
use spotreel_domain::Task;

use crate::error;
use crate::intake::Intake;
use crate::keys::Caller;

const DEFAULT_LIMIT: u32 = 50;
/// Sequences that one look at the log covers. The first covers a few for each task of the page, each next one twice as many.
const WINDOW: usize = 500;
const FIRST_WINDOW_A_TASK: usize = 4;
/// Looks at the log in one call; with a filter that fits nothing the page ends there, with a cursor to go on.
const MAX_WINDOWS: usize = 40;
/// A page ends below the size of a message, and is no burden while a slow client reads it.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Tasks whose newest event is asked for in one call: a second or two on a cluster.
const MAX_LOOKUPS: usize = 1_000;
/// States of tasks that have not ended.
const LIVE: [&str; 2] = ["queued", "started"];

/// Which tasks are meant.
pub struct Filter {
    query: TaskList,
    /// Only those that have not ended.
    live: bool,
}

pub async fn page(
    intake: &Intake,
    caller: &Caller,
    query: &ListQuery,
) -> Result<ListPage, ApiError> {
    let filter = Filter {
        query: check(caller, query, DEFAULT_LIMIT)?,
        live: false,
    };
    walk(intake, caller, &filter).await
}

/// The tasks that have not ended and that the query names, from its cursor on. A query that would name all tasks is refused.
pub async fn live(
    intake: &Intake,
    caller: &Caller,
    query: &ListQuery,
) -> Result<(Filter, ListPage), ApiError> {
    let filter = Filter {
        query: check(caller, query, MAX_LIST_LIMIT)?,
        live: true,
    };
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
    let page = walk(intake, caller, &filter).await?;
    Ok((filter, page))
}

async fn walk(intake: &Intake, caller: &Caller, filter: &Filter) -> Result<ListPage, ApiError> {
    let TaskList {
        cursor,
        limit,
        since,
        ..
    } = filter.query;
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
            // By the log's clock, in whose order pages are.
            if since.is_some_and(|since| recorded.stored_at < since) {
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

fn check(caller: &Caller, query: &ListQuery, usual_limit: u32) -> Result<TaskList, ApiError> {
    caller.permit(query.owner.as_deref(), query.check(usual_limit))
}

impl Filter {
    pub fn fits(&self, task: &Task) -> bool {
        let TaskList {
            state,
            model,
            label,
            owner,
            id_prefix,
            ..
        } = &self.query;
        let prefix = id_prefix.as_ref();
        let label = label.as_ref();
        state.is_none_or(|state| task.state.name() == state)
            && !(self.live && task.is_terminal())
            && model.is_none_or(|model| task.spec.model == model)
            && (owner.is_none() || *owner == task.owner)
            && prefix.is_none_or(|prefix| task.id.as_str().starts_with(prefix.as_str()))
            && label.is_none_or(|label| has_label(task, label))
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
            let refused = checked.expect_err("it is refused");
            let first = &refused.violations[0];
            assert_eq!((&*first.field, &*first.rule), (field, rule), "{query}");
        }
    }
}
