//! Tasks as clients, intake and workers write them.

use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_domain::task::Artifact;
use spotreel_domain::{Event, Model, Task, TaskId};

pub const PROMPT: &str = "a red fox in the snow";

/// What a client must say at least.
pub fn request(model: Model) -> TaskRequest {
    TaskRequest {
        model: model.as_str().into(),
        prompt: PROMPT.into(),
        ..TaskRequest::default()
    }
}

/// The first event of a task as intake writes it; `change` may do what no client can ask for.
pub fn queued(id: &str, request: &TaskRequest, change: impl FnOnce(&mut Task)) -> (Event, Task) {
    let now = ambient::now();
    let id = TaskId::parse(id).expect("the tests' ids are valid");
    let valid = request.validate(now).expect("the tests' tasks are valid");
    let (event, mut task) = Task::submit(id, valid.spec, valid.content_hash, now);
    change(&mut task);
    (event, task)
}

/// A video that nobody rendered.
pub fn artifact(key: &str) -> Artifact {
    Artifact {
        bucket: "spotreel".into(),
        key: key.into(),
        sha256: "0".repeat(64),
        bytes: 1,
        width: 1280,
        height: 704,
        frames: 5,
        fps: 24,
        engine: "sim".into(),
        poster: Some(key.replace(".mp4", ".jpg")),
    }
}
