//! One task from flags, or a file of them.

mod image;
mod lines;
mod upload;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use spotreel_api::{
    Accepted, AcceptedMany, ApiError, ErrorCode, ErrorReply, SubmitResult, TaskRequest,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::{Priority, Quality};

use self::image::image;
use self::lines::{BadLine, Defaults, RequestLine};
use crate::args::SubmitArgs;
use crate::connection::{Api, CallError, Settings};
use crate::done::Done;
use crate::{print, watch};

/// A call that got no answer is sent again: every task has a name by then, so it is the same task.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of bad lines of a file that are shown.
const MOST_SHOWN: usize = 20;

pub async fn run(settings: &Settings, args: SubmitArgs) -> anyhow::Result<Done> {
    let (ids, sent) = match &args.file {
        Some(path) => {
            let text = read(path)?;
            let mut lines = match lines::read(&text, &defaults(&args)?, ambient::now()) {
                Ok(lines) => lines,
                Err(bad) => return Err(complain(path, &bad, args.json)),
            };
            if lines.is_empty() {
                bail!(
                    "{} holds no task: write one JSON object per line",
                    source(path)
                );
            }
            let api = Api::open(settings).await?;
            for line in &mut lines {
                // Base64 in a line of more than half a message: the picture goes by itself.
                if line.json.len() > api.max_payload() / 2 {
                    let mut task = serde_json::from_str(&line.json)?;
                    upload::picture(settings, &mut task)
                        .await
                        .with_context(|| format!("nothing was submitted: line {}", line.number))?;
                    line.json = serde_json::to_string(&task)?;
                }
            }
            let sent = submit_lines(&api, &lines, args.json).await?;
            (sent, api)
        }
        None => {
            let mut task = task(&args)?;
            let api = Api::open(settings).await?;
            if serde_json::to_vec(&task)?.len() > api.max_payload() {
                upload::picture(settings, &mut task).await?;
            }
            match submit_one(&api, &task, args.json).await? {
                Some(sent) => (sent, api),
                None => return Ok(Done::Failed),
            }
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

/// None: the task was refused, which a program has been told as JSON.
async fn submit_one(api: &Api, task: &TaskRequest, json: bool) -> anyhow::Result<Option<Sent>> {
    let accepted: Accepted = match call(api, &serde_json::to_vec(task)?).await {
        Ok(accepted) => accepted,
        Err(CallError::Refused(error)) if json => {
            print::json(&ErrorReply { error });
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    tell(&accepted, json);
    Ok(Some(Sent {
        ids: vec![accepted.id.to_string()],
        all_taken: true,
    }))
}

async fn submit_lines(api: &Api, lines: &[RequestLine], json: bool) -> anyhow::Result<Sent> {
    let mut sent = Sent {
        ids: Vec::new(),
        all_taken: true,
    };
    let mut ended = 0;
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} submitted, {per_sec}");
    let bar = ProgressBar::new(lines.len() as u64);
    bar.set_style(style.expect("the template is a constant"));
    for call_lines in lines::calls(lines, api.max_payload() / 2) {
        let first = call_lines[0].number;
        let answer: AcceptedMany =
            call(api, &lines::body(call_lines)).await.with_context(|| {
                let before = sent.ids.len();
                let before = print::count(before, "accepted task");
                format!("stopped at line {first}, after {before}; run the same command again to continue there")
            })?;
        bar.inc(call_lines.len() as u64);
        for (line, result) in call_lines.iter().zip(answer.results) {
            match result {
                SubmitResult::Accepted(accepted) => {
                    bar.suspend(|| tell(&accepted, json));
                    ended += usize::from(watch::has_ended(&accepted.state));
                    sent.ids.push(accepted.id.to_string());
                }
                SubmitResult::Refused { error } => {
                    sent.all_taken = false;
                    bar.suspend(|| refused(line.number, &error, json));
                }
            }
        }
    }
    bar.finish_and_clear();
    let refused = lines.len() - sent.ids.len();
    let mut summary = format!("{} accepted", print::count(sent.ids.len(), "task"));
    if refused > 0 {
        summary += &format!(", {refused} refused");
    }
    if ended > 0 {
        summary += &format!(
            "; {ended} had ended before: use another --idempotency-key to render the lines again"
        );
    }
    eprintln!("{summary}");
    Ok(sent)
}

fn refused(line: usize, error: &ApiError, json: bool) {
    if json {
        print::json(&serde_json::json!({ "line": line, "error": error }));
    } else {
        let why = lines::in_one_line(&error.message, &error.violations);
        eprintln!("line {line}: {why}");
    }
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
        for warning in &accepted.warnings {
            eprintln!("{}: {warning}", accepted.id);
        }
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
        quality: args.quality.map(Quality::from),
        steps: args.steps,
        guidance: args.guidance,
        guidance_high_noise: args.guidance_high_noise,
        shift: args.shift,
        seed: args.seed,
        image: args.image.as_deref().map(image).transpose()?,
        loras: args.loras.clone(),
        preview: args.preview.then_some(true),
        priority: args.priority.map(Priority::from),
        expires_at,
        labels: labels(args)?,
        callback_url: args.callback_url.clone(),
    })
}

/// What a file's lines need not say.
fn defaults(args: &SubmitArgs) -> anyhow::Result<Defaults> {
    Ok(Defaults {
        idempotency_key: args.idempotency_key.clone(),
        labels: labels(args)?,
        priority: args.priority.map(Priority::from),
    })
}

fn labels(args: &SubmitArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (key, value) in &args.labels {
        if labels.insert(key.clone(), value.clone()).is_some() {
            bail!("--label {key} is given twice: give each label one value");
        }
    }
    Ok(labels)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    }
    .with_context(|| format!("cannot read {}", source(path)))?;
    String::from_utf8(bytes)
        .map_err(|_| anyhow::anyhow!("{} is not UTF-8 text: save it as UTF-8", source(path)))
}

/// What a person calls it.
fn source(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

fn complain(path: &Path, bad: &[BadLine], json: bool) -> anyhow::Error {
    let mut told = format!(
        "nothing was submitted: {} has {}",
        source(path),
        print::count(bad.len(), "bad line")
    );
    if json {
        for BadLine {
            line,
            message,
            violations,
        } in bad
        {
            let error = ApiError {
                code: ErrorCode::Invalid,
                message: message.clone(),
                violations: violations.clone(),
                retry_after_s: None,
            };
            refused(*line, &error, true);
        }
        return anyhow::anyhow!(told);
    }
    for line in bad.iter().take(MOST_SHOWN) {
        told += &format!("\n  {line}");
    }
    if bad.len() > MOST_SHOWN {
        told += &format!("\n  and {} more", bad.len() - MOST_SHOWN);
    }
    anyhow::anyhow!(told)
}

fn draw_name() -> String {
    ambient::uuid_v7().to_string()
}
