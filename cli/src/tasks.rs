//! Looking at tasks, and changing their course.

use jiff::Timestamp;
use spotreel_api::{CancelledMany, ErrorReply, ListPage, ListQuery, TaskView};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::task::Attempt;

use crate::args::{CancelArgs, IdsArgs, ListArgs, StatusArgs};
use crate::connection::{Api, CallError, Settings};
use crate::done::Done;
use crate::print::{self, field, relative, short};
use crate::watch;

/// What is asked for at once.
const PAGE: u32 = 200;

pub async fn list(settings: &Settings, args: ListArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let (filters, output) = (args.filters, args.output);
    let most = output.most();
    let (mut rows, mut seen, mut cursor) = (Vec::new(), 0u32, None);
    let now = ambient::now();
    let since = args.since.map(|since| since.at(now)).transpose()?;
    loop {
        let query = ListQuery {
            state: filters.state.clone(),
            model: filters.model.clone(),
            label: filters.label.clone(),
            owner: filters.owner.clone(),
            id_prefix: None,
            since,
            limit: Some(PAGE.min(most - seen)),
            cursor,
        };
        let page: ListPage = api.call(names::LIST, &query).await?;
        for task in &page.tasks {
            seen += 1;
            if output.json {
                print::json(task);
            } else {
                rows.push(row(task, now));
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() || seen >= most {
            break;
        }
    }
    if output.json {
        return Ok(Done::Well);
    }
    if rows.is_empty() {
        print::line("no tasks");
        return Ok(Done::Well);
    }
    print::table(["ID", "STATE", "SINCE", "MODEL", "PROMPT", "DETAIL"], &rows);
    if cursor.is_some() {
        eprintln!("there are more: --all prints them");
    }
    Ok(Done::Well)
}

fn row(task: &TaskView, now: Timestamp) -> [String; 6] {
    [
        task.id.to_string(),
        task.state.clone(),
        relative(now, task.at),
        task.spec.model.to_string(),
        short(&task.spec.prompt, 40),
        print::detail(task, now),
    ]
}

pub async fn status(settings: &Settings, args: StatusArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    match api.task(names::GET, &args.id).await {
        Ok(task) if args.json => print::json(&task),
        Ok(task) => show(&task, ambient::now()),
        Err(CallError::Refused(error)) if args.json => {
            print::json(&ErrorReply { error });
            return Ok(Done::Failed);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Done::Well)
}

fn show(task: &TaskView, now: Timestamp) {
    let spec = &task.spec;
    field("task", task.id.as_str());
    field(
        "state",
        &format!("{}, {}", task.state, relative(now, task.at)),
    );
    field("submitted", &relative(now, task.submitted_at));
    if let Some(worker) = &task.worker {
        field("worker", worker);
    }
    if let Some(text) = print::progress(task) {
        field("progress", &text);
    }
    if let Some(at) = task.not_before.filter(|at| *at > now) {
        field("next try", &relative(now, at));
    }
    if let Some(at) = spec.expires_at {
        field("expires", &relative(now, at));
    }
    if let Some(owner) = &task.owner {
        field("owner", &owner.to_string());
    }
    field("priority", &spoken(&spec.priority));
    field("prompt", &short(&spec.prompt, 200));
    if let Some(negative) = &spec.negative_prompt {
        field("negative", &short(negative, 200));
    }
    if let Some(quality) = &spec.quality {
        field("quality", &spoken(quality));
    }
    field(
        "video",
        &format!(
            "{}, {}x{}, {} frames at {}/s, {} steps, seed {}",
            spec.model, spec.width, spec.height, spec.frames, spec.fps, spec.steps, spec.seed
        ),
    );
    if !spec.labels.is_empty() {
        let labels = spec
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        field("labels", &labels.collect::<Vec<_>>().join(" "));
    }
    if let Some(url) = &spec.callback_url {
        field("callback", url);
    }
    if let Some(video) = &task.video {
        let artifact = &video.artifact;
        let size = print::bytes(artifact.bytes);
        field(
            "result",
            &format!("s3://{}/{} ({size})", artifact.bucket, artifact.key),
        );
        field("fetch", &format!("spotreel get {}", task.id));
    }
    if let Some(error) = &task.error {
        field("error", &error.message);
        field("again", &format!("spotreel retry {}", task.id));
    }
    if !task.attempts.is_empty() {
        print::line("");
        let rows: Vec<_> = task
            .attempts
            .iter()
            .map(|attempt| attempt_row(attempt, now))
            .collect();
        print::table(
            ["TRY ON", "STARTED", "TOOK", "FROM STEP", "OUTCOME", "ERROR"],
            &rows,
        );
    }
}

/// A word as clients write it.
fn spoken(word: &impl std::fmt::Debug) -> String {
    format!("{word:?}").to_lowercase()
}

fn attempt_row(attempt: &Attempt, now: Timestamp) -> [String; 6] {
    let end = attempt.ended_at.unwrap_or(now);
    let took = (end.as_second() - attempt.started_at.as_second())
        .max(0)
        .unsigned_abs();
    [
        attempt.worker.clone(),
        relative(now, attempt.started_at),
        print::span(took),
        attempt.from_step.to_string(),
        spoken(&attempt.outcome),
        attempt
            .error
            .as_ref()
            .map(|error| short(&error.message, 60))
            .unwrap_or_default(),
    ]
}

pub async fn cancel(settings: &Settings, args: CancelArgs) -> anyhow::Result<Done> {
    let CancelArgs { ids, json, .. } = args;
    if !ids.is_empty() {
        return change(settings, IdsArgs { ids, json }, names::CANCEL).await;
    }
    let api = Api::open(settings).await?;
    let mut query = ListQuery {
        state: args.state,
        model: args.model,
        label: args.label,
        owner: args.owner,
        ..ListQuery::default()
    };
    let mut ids = Vec::new();
    let failed = loop {
        match api.call::<_, CancelledMany>(names::CANCEL, &query).await {
            Ok(page) => {
                ids.extend(page.ids);
                query.cursor = page.next_cursor;
            }
            Err(error) => break Some(error),
        }
        if query.cursor.is_none() {
            break None;
        }
    };
    let answer = CancelledMany {
        cancelled: ids.len(),
        ids,
        next_cursor: query.cursor,
    };
    // What was cancelled before a call failed is told, too.
    if failed.is_none() || answer.cancelled > 0 {
        match json {
            true => print::json(&answer),
            false => {
                let tasks = print::count(answer.cancelled, "task");
                print::line(&format!("cancelled {tasks}"));
            }
        }
    }
    match failed {
        None => Ok(Done::Well),
        Some(CallError::Refused(error)) if json => {
            print::json(&ErrorReply { error });
            Ok(Done::Failed)
        }
        Some(error) => Err(error.into()),
    }
}

pub async fn retry(settings: &Settings, args: IdsArgs) -> anyhow::Result<Done> {
    change(settings, args, names::RETRY).await
}

/// Goes on after a refusal: the other tasks are wanted too.
async fn change(settings: &Settings, args: IdsArgs, verb: &str) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let mut done = Done::Well;
    for id in args.ids {
        match api.task(verb, &id).await {
            Ok(task) if args.json => print::json(&task),
            Ok(task) => print::line(&watch::sentence(&task)),
            Err(error) => {
                done = Done::Failed;
                match error {
                    CallError::Refused(error) if args.json => {
                        print::json(&serde_json::json!({ "id": id, "error": error }));
                    }
                    error => eprintln!("{}", print::named(&id, &error)),
                }
            }
        }
    }
    Ok(done)
}
