//! The clients: they submit, cancel and retry as people's programs do, and note what they were told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Request, RequestErrorKind};
use serde_json::{Value, json};
use spotreel_api::{Accepted, ErrorCode, ErrorReply, TaskView};
use spotreel_bus::names::{CANCEL, GET, INBOX_SUBJECT, RETRY, SUBMIT};
use spotreel_domain::{Model, Priority, TaskId};

use super::plan::op::{How, Moment, Op};
use super::plan::{ChaosPlan, Draft, Name};
use super::record::{Record, Refusal};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries of the same request.
const PAUSE: Duration = Duration::from_millis(200);
const TWINS: usize = 3;
/// One dot, red and black: the smallest first frames there are.
const IMAGES: [&str; 2] = [
    "iVBORw0KGgoAAAANSUhEUgAAAIAAAACAAQAAAADrRVxmAAAAGUlEQVR42mNgGAWjYBSMglEwCkbBKKAvAAAIgAABw1fMHQAAAABJRU5ErkJggg==",
    "iVBORw0KGgoAAAANSUhEUgAAAIAAAACAAQAAAADrRVxmAAAAIUlEQVR42mP8z4AKmBhGBUYFRgVGBUYFRgVGBUYFaCoAAL+1Af9+ZDnTAAAAAElFTkSuQmCC",
];

/// One client; the clones share its connection.
#[derive(Clone)]
pub struct Driver {
    pub client: Client,
    pub plan: Arc<ChaosPlan>,
    pub record: Arc<Record>,
    /// Nobody waits for longer.
    pub until: Instant,
}

enum Answer {
    Json(Value),
    Refused(ErrorCode, String),
    /// It may or may not have been done.
    Lost,
    /// Nobody was there to do it.
    Nobody,
}

impl Driver {
    pub async fn run(self, op: Op) {
        match op {
            Op::Submit {
                drafts,
                how: How::List,
            } => self.submit_list(&drafts).await,
            Op::Submit { drafts, how } => {
                for draft in drafts {
                    self.submit(&self.plan.drafts[draft], how).await;
                }
            }
            Op::Nonsense { number, named } => self.nonsense(number, named).await,
            Op::Cancel { draft, moment } => self.cancel(draft, moment).await,
            Op::Retry { draft } => self.retry(draft).await,
            Op::Kill { .. }
            | Op::Machine { .. }
            | Op::Arm { .. }
            | Op::Storage { .. }
            | Op::Ec2 { .. }
            | Op::Price { .. }
            | Op::Boots { .. }
            | Op::Taking { .. }
            | Op::Unreadable { .. }
            | Op::Shortage { .. } => {}
        }
    }

    async fn submit(&self, draft: &Draft, how: How) {
        self.record.count(format!("submitted: {how:?}"));
        match how {
            How::Single | How::List => self.submit_one(draft).await,
            How::Inbox => self.publish(draft).await,
            How::Twins => {
                let twins = (0..TWINS).map(|_| self.submit_one(draft));
                futures::future::join_all(twins).await;
                self.submit_other(draft).await;
            }
        }
    }

    async fn submit_one(&self, draft: &Draft) {
        while Instant::now() < self.until {
            match self.ask(SUBMIT, &body(draft)).await {
                Answer::Json(answer) => return self.accepted(draft, &answer),
                Answer::Refused(code, message) if !may_pass(code) => {
                    return self
                        .record
                        .contradiction(format!("#{} was refused: {message}", draft.number));
                }
                Answer::Refused(ErrorCode::QueueFull | ErrorCode::RateLimited, _)
                | Answer::Nobody => {}
                // A client without a name for its task cannot ask again.
                Answer::Refused(..) | Answer::Lost if draft.name == Name::None => {
                    return self.record.unanswered(draft.number);
                }
                Answer::Refused(..) | Answer::Lost => self.record.count("submission sent again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// All have names: what was not answered is sent again, one by one.
    async fn submit_list(&self, numbers: &[usize]) {
        let drafts: Vec<&Draft> = numbers
            .iter()
            .map(|&number| &self.plan.drafts[number])
            .collect();
        let bodies: Vec<Value> = drafts.iter().map(|draft| body(draft)).collect();
        self.record.count("submitted: a list");
        let results = match self.ask(SUBMIT, &json!(bodies)).await {
            Answer::Json(answer) => answer["results"].as_array().cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        for (index, draft) in drafts.into_iter().enumerate() {
            match results
                .get(index)
                .filter(|result| result.get("error").is_none())
            {
                Some(result) => self.accepted(draft, result),
                None => self.submit_one(draft).await,
            }
        }
    }

    fn accepted(&self, draft: &Draft, answer: &Value) {
        match serde_json::from_value::<Accepted>(answer.clone()) {
            Ok(accepted) => {
                self.record.acknowledged(
                    draft.number,
                    Some(accepted.id.to_string()),
                    Some(accepted),
                );
            }
            Err(error) => self
                .record
                .contradiction(format!("#{}: {answer} is no answer: {error}", draft.number)),
        }
    }

    /// The same name for another task must be refused.
    async fn submit_other(&self, draft: &Draft) {
        if self.record.id(draft.number).is_none() {
            return;
        }
        let mut other = body(draft);
        other["prompt"] = json!(format!("another than scene {}", draft.number));
        while Instant::now() < self.until {
            match self.ask(SUBMIT, &other).await {
                Answer::Refused(ErrorCode::Conflict, _) => {
                    return self.record.count("another task of a known name refused");
                }
                Answer::Json(answer) => {
                    return self.record.contradiction(format!(
                        "#{}: its name was given away: {answer}",
                        draft.number
                    ));
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn publish(&self, draft: &Draft) {
        let id = match &draft.name {
            Name::Id(id) => Some(id.clone()),
            Name::Key(key) => Some(TaskId::from_idempotency_key(key).to_string()),
            Name::None => None,
        };
        match self.publish_until(&body(draft), id.is_some()).await {
            Some(_) => self.record.acknowledged(draft.number, id, None),
            None => self.record.unanswered(draft.number),
        }
    }

    /// The sequence in the stream; none if the answer to something without a name was lost.
    async fn publish_until(&self, body: &Value, named: bool) -> Option<u64> {
        while Instant::now() < self.until {
            match self.ask(INBOX_SUBJECT, body).await {
                Answer::Json(answer) if answer["seq"].is_u64() => return answer["seq"].as_u64(),
                Answer::Lost if !named => return None,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }

    async fn nonsense(&self, number: usize, named: bool) {
        self.record.count("nonsense for the inbox");
        let mut body = json!({ "model": "t2v-A14B", "prompt": "nonsense", "steps": 0 });
        let id = format!("nonsense-{}-{number}", self.plan.seed);
        if named {
            body["id"] = json!(id);
        }
        if let Some(sequence) = self.publish_until(&body, named).await {
            self.record.refusal(if named {
                Refusal::Task(id)
            } else {
                Refusal::Sequence(sequence)
            });
        }
    }

    async fn cancel(&self, draft: usize, moment: Moment) {
        let awaited = |view: &TaskView| match moment {
            Moment::AtOnce => true,
            Moment::Rendering => view.state != "queued",
            Moment::Ended => has_ended(view),
        };
        let Some(id) = self.wait_for(draft, awaited).await else {
            return;
        };
        while Instant::now() < self.until {
            match self.ask(CANCEL, &json!({ "id": id })).await {
                Answer::Json(_) => {
                    self.record.count(format!("cancelled: {moment:?}"));
                    return self.record.change(draft, |known| known.cancelled = true);
                }
                Answer::Refused(code, _) if !may_pass(code) => {
                    return self.record.count("cancel refused: it had ended");
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn retry(&self, draft: usize) {
        let Some(id) = self.wait_for(draft, has_ended).await else {
            return;
        };
        while Instant::now() < self.until {
            self.record.change(draft, |known| known.retries_sent += 1);
            match self.ask(RETRY, &json!({ "id": id })).await {
                Answer::Json(_) => {
                    self.record.count("retried");
                    return self
                        .record
                        .change(draft, |known| known.retries_confirmed += 1);
                }
                Answer::Refused(code, _) if !may_pass(code) => {
                    return self.record.count("retry refused: it has a video, or runs");
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The task's id, once it is in the state that is waited for.
    async fn wait_for(&self, draft: usize, awaited: impl Fn(&TaskView) -> bool) -> Option<String> {
        while Instant::now() < self.until && !self.record.is_nameless(draft) {
            if let Some(id) = self.record.id(draft)
                && let Answer::Json(answer) = self.ask(GET, &json!({ "id": id })).await
                && serde_json::from_value::<TaskView>(answer).is_ok_and(|view| awaited(&view))
            {
                return Some(id);
            }
            tokio::time::sleep(PAUSE / 2).await;
        }
        None
    }

    async fn ask(&self, subject: &'static str, body: &Value) -> Answer {
        let request = Request::new()
            .payload(body.to_string().into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = match self.client.send_request(subject, request).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Answer::Nobody,
            Err(_) => return Answer::Lost,
        };
        if let Ok(ErrorReply { error }) = serde_json::from_slice(&answer.payload) {
            return Answer::Refused(error.code, error.message);
        }
        serde_json::from_slice(&answer.payload).map_or(Answer::Lost, Answer::Json)
    }
}

fn has_ended(view: &TaskView) -> bool {
    !matches!(view.state.as_str(), "queued" | "started")
}

/// The same request may be taken later.
fn may_pass(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unavailable | ErrorCode::QueueFull | ErrorCode::RateLimited
    )
}

/// The task as its client writes it.
fn body(draft: &Draft) -> Value {
    let mut body = json!({
        "model": draft.model.as_str(), "prompt": draft.prompt, "size": draft.size, "frames": 5,
        "steps": draft.steps, "seed": draft.seed,
    });
    match &draft.name {
        Name::Id(id) => body["id"] = json!(id),
        Name::Key(key) => body["idempotency_key"] = json!(key),
        Name::None => {}
    }
    if draft.priority == Priority::High {
        body["priority"] = json!("high");
    }
    if draft.model == Model::I2vA14b {
        body["image"] = json!({ "base64": IMAGES[draft.number % IMAGES.len()] });
    }
    body
}
