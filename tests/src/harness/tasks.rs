//! Tasks as tests write them: real ones, as small as the rules allow.

use serde_json::{Value, json};
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_domain::model::Priority;
use spotreel_domain::task::Artifact;
use spotreel_domain::{Event, Model, Task, TaskId};

/// A request for the smallest video, of so many steps.
pub fn small(id: &str, steps: u32) -> Value {
    json!({ "id": id, "model": "t2v-A14B", "prompt": "a red fox in the snow", "size": "832x480",
            "frames": 5, "steps": steps, "seed": 7 })
}

/// A name that no other test has.
pub fn name(prefix: &str) -> String {
    format!("{prefix}-{}", ambient::uuid_v4().simple())
}

pub fn task_id(prefix: &str) -> TaskId {
    TaskId::parse(&name(prefix)).expect("the prefixes of tests are tokens")
}

/// The first event of a new task, as intake makes it.
pub fn submitted(id: &TaskId) -> (Event, Task) {
    submitted_as(id, Model::T2vA14b, Priority::Normal)
}

pub fn submitted_as(id: &TaskId, model: Model, priority: Priority) -> (Event, Task) {
    let needs_image = model == Model::I2vA14b;
    let request = TaskRequest {
        id: Some(id.to_string()),
        model: model.to_string(),
        prompt: "a red fox in the snow".into(),
        priority: Some(priority),
        image: needs_image.then(|| spotreel_api::ImageSource::S3Key("images/fox.png".into())),
        seed: Some(7),
        ..TaskRequest::default()
    };
    let valid = request
        .validate(ambient::now())
        .expect("the tests' tasks are valid");
    Task::submit(id.clone(), valid.spec, valid.content_hash, ambient::now())
}

/// An artifact that was never rendered, for tests of the log alone.
pub fn artifact(id: &TaskId, start: u64) -> Artifact {
    Artifact {
        bucket: "spotreel".into(),
        key: format!("renders/{id}/{start}.mp4"),
        sha256: "0".repeat(64),
        bytes: 1,
        width: 832,
        height: 480,
        frames: 5,
        fps: 16,
        engine: "none".into(),
        poster: None,
    }
}
