//! Lists too long for one body: a task a line, read as they arrive, a result a line, in the same order.
//!
//! Results are kept until the client reads them, and tasks are taken meanwhile: a client that sends everything before
//! it reads anything is the usual one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use spotreel_api::{ApiError, MAX_TASKS_PER_CALL, SubmitResult, TaskRequest};
use tokio::sync::mpsc;

use super::api::Api;
use super::body;
use super::budget::Held;
use super::lines::{UNBUFFERED, one_line};
use crate::config::LARGEST_BODY;
use crate::error;
use crate::keys::Caller;
use crate::submit::parse::{self, Submission};
use crate::submit::{Origin, Outcome};

pub(super) const MEDIA_TYPE: &str = "application/jsonl";
/// The same by its older names.
pub(super) const MEDIA_TYPES: [&str; 3] =
    [MEDIA_TYPE, "application/x-ndjson", "application/x-jsonl"];
/// Lines of one upload on their way at once: what one group commit takes.
const AT_ONCE: usize = 1_000;

/// How often the key of an upload is looked at.
const KEY_CHECK: Duration = Duration::from_secs(1);

/// Takes the tasks; the answer begins before the last line was read.
pub(super) fn submit(
    api: Api,
    caller: Caller,
    key: Option<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let place = api.uploads.take(Some(&caller))?;
    // One more for the line that says why an upload ended early.
    let (results, told) = mpsc::channel(MAX_TASKS_PER_CALL + 1);
    let tasks = api.ctx.tasks.clone();
    tasks.spawn(async move {
        let outcomes = lines(&api, &caller, body)
            .enumerate()
            .map(|(index, line)| submit_line(&api, &caller, key.as_deref(), index, line))
            .buffered(AT_ONCE);
        let mut outcomes = std::pin::pin!(outcomes);
        loop {
            let outcome = tokio::select! {
                outcome = outcomes.next() => outcome,
                // A line that never ends keeps nothing open for a key that was revoked.
                () = tokio::time::sleep(KEY_CHECK) => match api.is_live(&caller) {
                    true => continue,
                    false => break,
                },
            };
            let Some(outcome) = outcome else { break };
            // The client is gone; what it sent is still taken.
            let _ = results.send(line_of(outcome)).await;
        }
        drop(place);
    });
    let body = stream::unfold(told, |mut told| async {
        let line = told.recv().await?;
        Some((Ok::<_, Infallible>(line), told))
    });
    let kind = [(CONTENT_TYPE, MEDIA_TYPE)];
    Ok((UNBUFFERED, kind, Body::from_stream(body)).into_response())
}

async fn submit_line(
    api: &Api,
    caller: &Caller,
    key: Option<&str>,
    index: usize,
    line: Result<Held, ApiError>,
) -> Outcome {
    // The line's share of the budget is held to the end: what was read out of it is as large.
    let line = line?;
    if !api.is_live(caller) {
        let message = "the key was revoked or has expired while the list was uploaded: the lines from here on were not taken";
        return Err(error::unauthorized(message.to_owned()));
    }
    let mut request = one(line.as_slice(), index)?;
    if let Some(key) = key {
        request.name(format!("{key}/{index}"));
    }
    api.admit(caller, 1)?;
    let mut outcomes = api
        .intake
        .submit(vec![Ok(request)], Origin::Http, caller)
        .await;
    outcomes.remove(0)
}

fn one(line: &[u8], index: usize) -> Result<TaskRequest, ApiError> {
    match parse::submission(line, None)? {
        Submission::One(request) => Ok(*request),
        Submission::Many(_) => {
            let message = format!("line {index} is a list: a line holds one task");
            Err(error::broken("body", "object", message))
        }
    }
}

fn line_of(outcome: Outcome) -> Bytes {
    let json = serde_json::to_string(&SubmitResult::from(outcome));
    let mut line = one_line(&json.expect("an answer has string keys only")).into_owned();
    line.push('\n');
    line.into()
}

/// The lines of a body that are not empty; the last one may be an error, after which nothing is read.
struct Lines {
    api: Api,
    caller: Caller,
    body: Body,
    rest: Held,
    whole: VecDeque<Held>,
    given: usize,
    ended: bool,
}

fn lines(
    api: &Api,
    caller: &Caller,
    body: Body,
) -> impl Stream<Item = Result<Held, ApiError>> + use<> {
    let lines = Lines {
        api: api.clone(),
        rest: api.budget.hold_part(caller),
        caller: caller.clone(),
        body,
        whole: VecDeque::new(),
        given: 0,
        ended: false,
    };
    stream::unfold(lines, |mut lines| async {
        let line = lines.next().await.transpose()?;
        lines.ended |= line.is_err();
        Some((line, lines))
    })
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Held>, ApiError> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                self.given += 1;
                if self.given > MAX_TASKS_PER_CALL {
                    self.whole.clear();
                    let most = MAX_TASKS_PER_CALL;
                    let message = format!(
                        "one call takes at most {most} tasks: the lines from here on were not read"
                    );
                    return Err(error::too_large(message));
                }
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        let within = self.api.config.idle_timeout;
        let chunk = tokio::time::timeout(within, body::next_chunk(&mut self.body));
        let Some(chunk) = chunk.await.map_err(|_| body::timed_out(within))?? else {
            self.ended = true;
            self.end_line();
            return Ok(());
        };
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.rest.len() + part.len() > LARGEST_BODY {
                return Err(body::too_large(LARGEST_BODY));
            }
            self.rest.add(part)?;
            if parts.peek().is_some() {
                self.end_line();
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::replace(&mut self.rest, self.api.budget.hold_part(&self.caller));
        if !line.as_slice().iter().all(u8::is_ascii_whitespace) {
            self.whole.push_back(line);
        }
    }
}
