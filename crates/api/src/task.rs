//! Tasks: answers to submissions, a task's state, its progress, lists, uploads of first frames.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use spotreel_domain::task::{Artifact, Attempt, Failure, State, Task, TaskSpec};
use spotreel_domain::{Model, Owner, TaskId};
use utoipa::ToSchema;

use crate::error::{ApiError, Violation};
use crate::filters::Broken;
use crate::request::CROP_WARNING_PERCENT;
use crate::whole;

/// The most tasks in one call.
pub const MAX_TASKS_PER_CALL: usize = 10_000;
/// The most tasks of one page of a list.
pub const MAX_LIST_LIMIT: u32 = 500;

/// A task as people and programs see it: the answer to `get`, and the data of every public event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    pub id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<Owner>,
    pub state: String,
    #[serde(flatten)]
    pub spec: TaskSpec,
    pub submitted_at: Timestamp,
    /// When the state was entered.
    pub at: Timestamp,
    pub round: u32,
    pub failures: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_before: Option<Timestamp>,
    /// Who renders it now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub worker: Option<String>,
    /// In answers while the task is rendered; never in events.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    #[serde(deserialize_with = "RenderProgress::if_told")]
    #[schema(value_type = RenderProgress)]
    pub progress: Option<RenderProgress>,
    pub attempts: Vec<Attempt>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub video: Option<Video>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Failure>,
}

/// How far a render is, as its worker told last; null where nothing is known yet. The number of all steps is `steps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RenderProgress {
    /// Steps that are done.
    pub step: Option<u32>,
    /// What the worker does now.
    pub phase: Option<String>,
    /// Seconds that the rest takes, as the engine estimates it.
    pub eta_s: Option<f64>,
    /// The newest picture of the unfinished video; only of a task that asks for previews.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_image: Option<PreviewImage>,
}

impl From<&Progress> for RenderProgress {
    fn from(told: &Progress) -> Self {
        Self {
            step: Some(told.step),
            phase: Some(told.phase.clone()),
            eta_s: told.eta_s,
            preview_image: told.preview_image.clone(),
        }
    }
}

impl RenderProgress {
    /// Flattened fields that are all absent are no progress.
    fn if_told<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        let told = Self::deserialize(from)?;
        Ok((told != Self::default()).then_some(told))
    }
}

/// A small picture of the unfinished video, and a link to it that ends. The picture is removed about 10 minutes after the
/// task has ended; the link works until then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreviewImage {
    /// The step after which it was made.
    pub step: u32,
    pub url: String,
    pub url_expires_at: Timestamp,
}

/// A finished video: where it lies for good, and a link that ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Video {
    #[serde(flatten)]
    pub artifact: Artifact,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url_expires_at: Option<Timestamp>,
    /// A link to its first frame, which ends at the same time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub poster_url: Option<String>,
}

impl From<&Task> for TaskView {
    fn from(task: &Task) -> Self {
        let (mut not_before, mut video, mut error) = (None, None, None);
        match &task.state {
            State::Queued { not_before: at } => not_before = *at,
            State::Succeeded { artifact } => {
                video = Some(Video {
                    artifact: artifact.clone(),
                    url: None,
                    url_expires_at: None,
                    poster_url: None,
                });
            }
            State::Failed { error: failure } => error = Some(failure.clone()),
            State::Started | State::Cancelled | State::Expired => {}
        }
        Self {
            id: task.id.clone(),
            owner: task.owner.clone(),
            state: task.state.name().to_owned(),
            spec: task.spec.clone(),
            submitted_at: task.submitted_at,
            at: task.at,
            round: task.round,
            failures: task.failures,
            not_before,
            worker: task.running().map(|attempt| attempt.worker.clone()),
            progress: None,
            attempts: task.attempts.clone(),
            video,
            error,
        }
    }
}

/// The answer to one task of a submission. The same submission again gets the same answer, with the task's state by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub id: TaskId,
    pub submitted_at: Timestamp,
    pub seed: u64,
    /// `queued` for a new task. A task that has ended already sends no further event.
    #[serde(default)]
    pub state: String,
    /// The video's size; only for a task with a picture, whose shape decides it where the request names no size.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<String>,
    /// What the client may not have meant, such as a picture of which much is cut away.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

impl From<&Task> for Accepted {
    fn from(task: &Task) -> Self {
        let spec = &task.spec;
        let size = format!("{}x{}", spec.width, spec.height);
        let crop = spec
            .crop_percent
            .filter(|percent| *percent > CROP_WARNING_PERCENT);
        let warning = |percent| {
            format!(
                "{percent} % of the picture are cut away to fill {size}: crop it to that shape, or take another size"
            )
        };
        Self {
            warnings: crop.map(warning).into_iter().collect(),
            size: spec.image.is_some().then_some(size),
            id: task.id.clone(),
            submitted_at: task.submitted_at,
            seed: task.spec.seed,
            state: task.state.name().to_owned(),
        }
    }
}

/// The answer to a list of tasks, in the order of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedMany {
    pub accepted: usize,
    pub refused: usize,
    pub results: Vec<SubmitResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SubmitResult {
    Accepted(Accepted),
    Refused { error: ApiError },
}

impl From<Result<Accepted, ApiError>> for SubmitResult {
    fn from(outcome: Result<Accepted, ApiError>) -> Self {
        match outcome {
            Ok(accepted) => Self::Accepted(accepted),
            Err(error) => Self::Refused { error },
        }
    }
}

/// A picture that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uploaded {
    /// For a task's `image.s3_key`. The same picture has the same key.
    pub s3_key: String,
    pub width: u32,
    pub height: u32,
}

/// `get`, `cancel` and `retry` name one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRef {
    pub id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `key=value`, or a key alone for any value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whose key the task came with. Only a key that sees all tasks may name another owner than its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What the id begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_prefix: Option<String>,
    /// Only tasks that changed at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub limit: Option<u32>,
    /// From the page before.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub cursor: Option<u64>,
}

/// A query that breaks no rule.
#[derive(Clone, Debug)]
pub struct TaskList {
    pub state: Option<&'static str>,
    pub model: Option<Model>,
    pub label: Option<String>,
    pub owner: Option<Owner>,
    pub id_prefix: Option<TaskId>,
    pub since: Option<Timestamp>,
    pub limit: usize,
    pub cursor: Option<u64>,
}

impl ListQuery {
    /// The query as it is carried out, or every rule that it breaks.
    pub fn check(&self, usual_limit: u32) -> Result<TaskList, Vec<Violation>> {
        let mut broken = Broken::default();
        let prefix = self.id_prefix.as_deref().map(TaskId::parse).transpose();
        let checked = TaskList {
            state: broken.state(self.state.as_deref()),
            model: broken.model(self.model.as_deref()),
            owner: broken.owner(self.owner.as_deref()),
            label: broken.label(self.label.as_deref()),
            id_prefix: prefix
                .unwrap_or_else(|bad| broken.add("id_prefix", "token", bad.to_string())),
            since: self.since,
            limit: broken.limit(self.limit.unwrap_or(usual_limit), MAX_LIST_LIMIT),
            cursor: broken.cursor(self.cursor),
        };
        broken.none_in(checked)
    }
}

/// What one call of `cancel` with filters has cancelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CancelledMany {
    pub cancelled: usize,
    pub ids: Vec<TaskId>,
    /// More may remain: the same call with this cursor goes on. Absent once all tasks were looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<u64>,
}

/// Newest change first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListPage {
    /// May be fewer than `limit`, or none, before the last page.
    pub tasks: Vec<TaskView>,
    /// Send it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<u64>,
}

/// Progress of a render, on core NATS: no promise that each arrives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub id: TaskId,
    pub worker: String,
    pub phase: String,
    pub step: u32,
    pub steps: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preview_image: Option<PreviewImage>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskRequest;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn an_owner_stays_and_is_shown() {
        let (anna, ben) = (Owner::parse("anna").unwrap(), Owner::parse("ben").unwrap());
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox".into(),
            idempotency_key: Some("1".into()),
            ..Default::default()
        };
        let of = |owner| request.validate_for(owner, now()).unwrap();
        let [hers, his, nobodys] = [of(Some(&anna)), of(Some(&ben)), of(None)];
        assert_ne!(hers.id, his.id);
        assert_eq!(nobodys, request.validate(now()).unwrap());
        assert_eq!(
            hers.content_hash, nobodys.content_hash,
            "it is of what the client said"
        );
        let (id, hash) = (hers.id.unwrap(), hers.content_hash);
        let (_, task) = Task::submit_for(Some(anna.clone()), id, hers.spec, hash, now());
        let (_, task) = task.started("w", "i", 0, now()).unwrap();
        let (_, task) = task.cancelled(now()).unwrap();
        let (_, task) = task.requeued(now()).unwrap();
        assert_eq!(task.owner, Some(anna));
        let shown = |task: &Task| serde_json::to_value(TaskView::from(task)).unwrap();
        assert_eq!(shown(&task)["owner"], "anna");
        let (_, nobodys) = Task::submit(
            nobodys.id.unwrap(),
            nobodys.spec,
            nobodys.content_hash,
            now(),
        );
        assert_eq!(shown(&nobodys).get("owner"), None);
    }
}
