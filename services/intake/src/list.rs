//! Pages of tasks, newest change first, read from the log backwards.
//!
//! A task is shown at its newest event. Between two pages a task may change: it then stands on top, before the first
//! page, and is missing from the later ones; no page shows a state that is not the task's newest.

use std::collections::HashSet;

use spotreel_bus::Recorded;
use spotreel_bus::names::{EVERY_SUBJECT, TASKS};
use spotreel_domain::Model;
use spotreel_domain::api::{ApiError, ListPage, ListQuery, TaskView};

use crate::caller::Caller;
use crate::error;
use crate::submit::Intake;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;
/// Sequences that one look at the log covers. The first covers a few for each task of the page, each next one twice as many.
const WINDOW: usize = 500;
const FIRST_WINDOW_A_TASK: usize = 4;
/// Looks at the log in one call; with a filter that fits nothing the page ends there, with a cursor to go on.
const MAX_WINDOWS: usize = 40;
/// A page ends below the size of a message, and is no burden while a slow client reads it.
const MAX_PAGE_BYTES: usize = 1 << 20;
const STATES: [&str; 6] = [
    "queued",
    "started",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
];

struct Filter {
    state: Option<String>,
    model: Option<Model>,
}

pub async fn page(
    intake: &Intake,
    caller: &Caller,
    query: &ListQuery,
) -> Result<ListPage, ApiError> {
    let (filter, limit) = check(query)?;
    let (first, last) = bounds(intake).await?;
    // One past the newest message that is looked at.
    let mut end = query.cursor.map_or(last + 1, |cursor| cursor.min(last + 1));
    let from_the_top = end > last;
    let mut page = ListPage {
        tasks: Vec::new(),
        next_cursor: None,
    };
    let mut seen = HashSet::new();
    let mut bytes = 0;
    // The task that reaches it may be as large again.
    let most_bytes = MAX_PAGE_BYTES.min(intake.log.client().max_payload() / 2);
    let mut covered = WINDOW.min(limit * FIRST_WINDOW_A_TASK);
    for _ in 0..MAX_WINDOWS {
        if end <= first {
            return Ok(page);
        }
        let start = end.saturating_sub(covered as u64).max(first);
        let mut window = intake
            .log
            .scan(EVERY_SUBJECT, start, covered)
            .await
            .map_err(|failure| error::unread(&failure))?;
        // Where messages are missing, the window reaches beyond its end.
        window.retain(|recorded| recorded.sequence < end);
        for recorded in window.into_iter().rev() {
            let new = seen.insert(recorded.task.id.clone());
            if !new
                || !caller.may_see(&recorded.task)
                || !filter.fits(&recorded)
                || !(from_the_top || is_newest(intake, &recorded).await?)
            {
                continue;
            }
            let view = TaskView::from(&recorded.task);
            bytes += serde_json::to_vec(&view).map_or(0, |json| json.len());
            page.tasks.push(view);
            if page.tasks.len() >= limit || bytes >= most_bytes {
                page.next_cursor = Some(recorded.sequence).filter(|sequence| *sequence > first);
                return Ok(page);
            }
        }
        end = start;
        covered = WINDOW.min(covered * 2);
    }
    page.next_cursor = Some(end).filter(|end| *end > first);
    Ok(page)
}

fn check(query: &ListQuery) -> Result<(Filter, usize), ApiError> {
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
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
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
            },
            limit as usize,
        )),
        false => Err(error::invalid(broken)),
    }
}

impl Filter {
    fn fits(&self, recorded: &Recorded) -> bool {
        self.state
            .as_ref()
            .is_none_or(|state| recorded.task.state.name() == state)
            && self
                .model
                .is_none_or(|model| recorded.task.spec.model == model)
    }
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
            tracing::warn!(error = %failure, "the task log did not answer");
            Err(error::unavailable("the task log cannot be read now"))
        }
    }
}

async fn is_newest(intake: &Intake, recorded: &Recorded) -> Result<bool, ApiError> {
    let last = intake
        .log
        .last(&recorded.task.id)
        .await
        .map_err(|failure| error::unread(&failure))?;
    Ok(last.is_some_and(|last| last.sequence == recorded.sequence))
}
