//! One task from flags, or a file of them.

mod lines;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::api::{Accepted, AcceptedMany, SubmitResult};
use spotreel_domain::request::ImageSource;
use spotreel_domain::{Priority, Quality, TaskRequest};

use self::lines::{BadLines, Line};
use crate::args::{PriorityArg, QualityArg, SubmitArgs};
use crate::connection::{Api, CallError, Settings};
use crate::{Done, print, watch};

/// A call that got no answer is sent again: every task has a name by then, so it is the same task.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
/// Of a file with many bad lines, so many are shown.
const MOST_SHOWN: usize = 20;

pub async fn run(settings: &Settings, args: SubmitArgs) -> anyhow::Result<Done> {
    let (ids, sent) = match &args.file {
        Some(path) => {
            let text = read(path)?;
            let lines = lines::read(&text, draw_name).map_err(|bad| complain(path, &bad))?;
            if lines.is_empty() {
                bail!(
                    "{} holds no task: write one JSON object per line",
                    path.display()
                );
            }
            let api = Api::open(settings).await?;
            let sent = submit_lines(&api, &lines, args.json).await?;
            (sent, api)
        }
        None => {
            let task = task(&args)?;
            let api = Api::open(settings).await?;
            (submit_one(&api, &task, args.json).await?, api)
        }
    };
    let all_taken = ids.all_taken;
    let ended_well = !args.wait || watch::until_ended(&sent, ids.ids, args.json).await?;
    Ok(if all_taken && ended_well {
        Done::Well
    } else {
        Done::Failed
    })
}

struct Sent {
    ids: Vec<String>,
    all_taken: bool,
}

async fn submit_one(api: &Api, task: &TaskRequest, json: bool) -> anyhow::Result<Sent> {
    let body = serde_json::to_vec(task)?;
    if body.len() > api.max_payload() {
        let most = print::bytes(api.max_payload() as u64);
        bail!("the task is larger than {most}: put its image into the bucket and give its key");
    }
    let accepted: Accepted = call(api, &body).await?;
    tell(&accepted, json);
    Ok(Sent {
        ids: vec![accepted.id.to_string()],
        all_taken: true,
    })
}

async fn submit_lines(api: &Api, lines: &[Line], json: bool) -> anyhow::Result<Sent> {
    let mut sent = Sent {
        ids: Vec::new(),
        all_taken: true,
    };
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} submitted, {per_sec}");
    let bar = ProgressBar::new(lines.len() as u64);
    bar.set_style(style.expect("the template is a constant"));
    for call_lines in lines::calls(lines, api.max_payload() / 2) {
        let first = call_lines[0].number;
        let answer: AcceptedMany =
            call(api, &lines::body(call_lines)).await.with_context(|| {
                let before = sent.ids.len();
                format!("stopped at line {first}, after {before} accepted tasks")
            })?;
        bar.inc(call_lines.len() as u64);
        for (line, result) in call_lines.iter().zip(answer.results) {
            match result {
                SubmitResult::Accepted(accepted) => {
                    bar.suspend(|| tell(&accepted, json));
                    sent.ids.push(accepted.id.to_string());
                }
                SubmitResult::Refused { error } => {
                    sent.all_taken = false;
                    let why = lines::in_one_line(&error.message, &error.violations);
                    bar.suspend(|| eprintln!("line {}: {why}", line.number));
                }
            }
        }
    }
    bar.finish_and_clear();
    let refused = lines.len() - sent.ids.len();
    if refused > 0 {
        eprintln!("{} tasks accepted, {refused} refused", sent.ids.len());
    }
    Ok(sent)
}

async fn call<A: DeserializeOwned>(api: &Api, body: &[u8]) -> Result<A, CallError> {
    let mut tried = 0;
    loop {
        let error = match api.call_raw(names::SUBMIT, body.to_vec()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        tried += 1;
        if tried == TRIES || !error.may_pass() {
            return Err(error);
        }
        let asked = match &error {
            CallError::Refused(refused) => refused.retry_after_s.map(Duration::from_secs),
            _ => None,
        };
        tokio::time::sleep(asked.unwrap_or(PAUSE)).await;
    }
}

fn tell(accepted: &Accepted, json: bool) {
    if json {
        print::json(accepted);
    } else {
        print::line(accepted.id.as_str());
    }
}

fn task(args: &SubmitArgs) -> anyhow::Result<TaskRequest> {
    let expires_at = match args.expires_in {
        Some(after) => Some(
            ambient::now()
                .checked_add(SignedDuration::try_from(after)?)
                .context("--expires-in is too far ahead")?,
        ),
        None => None,
    };
    let id = match (&args.id, &args.idempotency_key) {
        (None, None) => Some(draw_name()),
        (id, _) => id.clone(),
    };
    Ok(TaskRequest {
        id,
        idempotency_key: args.idempotency_key.clone(),
        model: args.model.clone(),
        prompt: args.prompt.clone().unwrap_or_default(),
        negative_prompt: args.negative_prompt.clone(),
        size: args.size.clone(),
        frames: args.frames,
        quality: args.quality.map(quality),
        steps: args.steps,
        guidance: args.guidance,
        guidance_high_noise: args.guidance_high_noise,
        shift: args.shift,
        seed: args.seed,
        image: args.image.as_deref().map(image).transpose()?,
        priority: args.priority.map(|priority| match priority {
            PriorityArg::High => Priority::High,
            PriorityArg::Normal => Priority::Normal,
        }),
        expires_at,
        labels: args.labels.iter().cloned().collect(),
    })
}

pub fn quality(tier: QualityArg) -> Quality {
    match tier {
        QualityArg::Fast => Quality::Fast,
        QualityArg::Standard => Quality::Standard,
        QualityArg::Best => Quality::Best,
    }
}

/// A file that is there is sent along; whatever else begins with `images/` is a key.
fn image(text: &str) -> anyhow::Result<ImageSource> {
    if !Path::new(text).exists() && text.starts_with("images/") {
        return Ok(ImageSource::S3Key(text.to_owned()));
    }
    let bytes = std::fs::read(text).with_context(|| {
        format!("{text:?} is no file that can be read, and no key under images/")
    })?;
    Ok(ImageSource::Base64(STANDARD.encode(bytes)))
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn complain(path: &Path, BadLines(bad): &BadLines) -> anyhow::Error {
    let shown = bad
        .iter()
        .take(MOST_SHOWN)
        .map(|line| format!("\n  {line}"));
    let more = match bad.len().saturating_sub(MOST_SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let shown: String = shown.collect();
    anyhow::anyhow!(
        "nothing was submitted: {} has lines that are no task{shown}{more}",
        path.display()
    )
}

fn draw_name() -> String {
    ambient::uuid_v7().to_string()
}
