//! Public events of tasks, batches and rejected submissions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::alarm::AlarmNotice;
use spotreel_domain::batch::Batch;
use spotreel_domain::{Event, Task, TaskId};
use utoipa::ToSchema;

use crate::alarm::AlarmView;
use crate::batch::BatchView;
use crate::error::ApiError;
use crate::task::{TaskView, Video};

/// A public event: CloudEvents 1.0, structured JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CloudEvent<T> {
    pub specversion: String,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    pub time: Timestamp,
    pub datacontenttype: String,
    pub data: T,
}

impl<T> CloudEvent<T> {
    pub fn new(id: String, kind: &str, subject: String, time: Timestamp, data: T) -> Self {
        Self {
            specversion: "1.0".into(),
            id,
            source: "/spotreel".into(),
            kind: format!("io.spotreel.{kind}.v1"),
            subject,
            time,
            datacontenttype: "application/json".into(),
            data,
        }
    }
}

impl CloudEvent<TaskView> {
    /// The public twin of a log event.
    pub fn of_task(sequence: u64, event: Event, task: &Task, video: Option<Video>) -> Self {
        let mut view = TaskView::from(task);
        if video.is_some() {
            view.video = video;
        }
        let kind = format!("task.{}", event.as_str());
        Self::new(
            format!("{}/{sequence}", task.id),
            &kind,
            task.id.to_string(),
            task.at,
            view,
        )
    }
}

impl CloudEvent<BatchView> {
    /// The public twin of an event of the batch log, stored at `stored_at`.
    pub fn of_batch(sequence: u64, batch: &Batch, stored_at: Timestamp) -> Self {
        Self::new(
            format!("{}/{sequence}", batch.id),
            &format!("batch.{}", batch.status.name()),
            batch.id.to_string(),
            stored_at,
            BatchView::of(batch, stored_at),
        )
    }
}

impl CloudEvent<AlarmView> {
    pub fn of_alarm(notice: &AlarmNotice) -> Self {
        Self::new(
            notice.id(),
            &format!("alarm.{}", notice.state.as_str()),
            notice.name.to_string(),
            notice.at,
            AlarmView::from(notice),
        )
    }
}

/// The data of `task.rejected`: a submission to the inbox that was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    pub error: ApiError,
    pub inbox_sequence: u64,
}
