//! OpenAPI types that no derive can write: a task's rules differ by its model.

use std::borrow::Cow;

use serde_json::{Value, json};
use spotreel_domain::id::MAX_TASK_ID;
use spotreel_domain::model::{
    Expert, GUIDANCE, ImageRule, MAX_PROMPT_CHARS, MAX_SEED, MIN_FRAMES, SHIFT, STEPS,
};
use spotreel_domain::task::MAX_LORA_NAME;
use spotreel_domain::webhook::MAX_URL_BYTES;
use spotreel_domain::{Model, Quality};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::quote::MAX_QUOTED_TASKS;
use crate::request::{
    LORA_STRENGTH, MAX_IDEMPOTENCY_KEY, MAX_LABEL_CHARS, MAX_LABELS, MAX_LORAS, size_names,
};
use crate::task::MAX_TASKS_PER_CALL;

/// A task as a client writes it: one of three, by its model.
pub struct TaskRequestSchema;

/// A task, or a list of them.
pub struct Submittable;

/// A task that may lack its prompt and its image, and how many of it.
pub struct Quotable;

/// What a list is asked for, beside the filters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the type that is read is ListQuery; this describes it"
)]
pub struct Listed {
    #[param(inline)]
    state: Option<StateName>,
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
}

/// The same for tasks that are to be cancelled: `state`, `model`, `label` or `owner` must be there.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the type that is read is ListQuery; this describes it"
)]
pub struct Unwanted {
    #[param(inline)]
    state: Option<LiveStateName>,
    /// The most tasks that this call cancels.
    #[param(minimum = 1, maximum = 500, default = 500)]
    limit: Option<u32>,
}

/// Which tasks a list or a cancellation means. A task fits if it fits each of them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the type that is read is ListQuery; this describes it"
)]
pub struct Filters {
    #[param(inline)]
    model: Option<Model>,
    /// `key=value`, or a key alone for any value.
    #[param(min_length = 1)]
    label: Option<String>,
    /// Whose key the task came with. Only a key that sees all tasks may name another owner than its own.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    owner: Option<String>,
    /// What the id begins with.
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id_prefix: Option<String>,
    /// Only tasks that changed at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<String>,
    /// `next_cursor` of the page before.
    #[param(minimum = 0)]
    cursor: Option<u64>,
}

/// Which tasks a search finds. A task is found if it fits each of them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the type that is read is SearchQuery; this describes it"
)]
pub struct Searched {
    /// Words of the prompt, in any order; words between double quotes stand next to each other. Chinese, Japanese and Korean
    /// text is found by any part of it.
    #[param(max_length = 200)]
    text: Option<String>,
    /// Whose key the task came with. Only a key that sees all tasks may name another owner than its own.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    owner: Option<String>,
    /// `key=value`, or a key alone for any value.
    #[param(min_length = 1)]
    label: Option<String>,
    #[param(inline)]
    state: Option<StateName>,
    #[param(inline)]
    model: Option<Model>,
    /// A batch in which an attempt at the task was made, such as `default-17`.
    #[param(pattern = "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?-[1-9][0-9]{0,17}$")]
    batch: Option<String>,
    /// Only tasks that were submitted at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<String>,
    /// Only tasks that were submitted before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<String>,
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(minimum = 0)]
    cursor: Option<u64>,
}

/// Which costs a report sums.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the type that is read is CostsQuery; this describes it"
)]
pub struct CostSpan {
    /// The first day, in UTC; 30 days before `to` if it is absent.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<String>,
    /// The day after the last one; tomorrow if it is absent. At most 400 days after `from`.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<String>,
    /// `day` (the default), `month`, `batch`, `pool`, `model`, `owner`, or `label:NAME`.
    #[param(pattern = "^(day|month|batch|pool|model|owner|label:.+)$")]
    by: Option<String>,
    /// The costs of one owner's tasks alone.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    owner: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a text")]
enum LiveStateName {
    Queued,
    Started,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a text")]
enum StateName {
    Queued,
    Started,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

/// The schemas that are written here, by name. They take the place of [`PLACEHOLDER`]s: the builders of utoipa know
/// fewer words than JSON Schema has.
pub fn written() -> [(Cow<'static, str>, Value); 3] {
    let task = format!("#/components/schemas/{}", TaskRequestSchema::name());
    let submission = json!({ "oneOf": [
        { "$ref": task },
        // Each stands for itself: what is no task among them is refused alone, and no fault of the request.
        { "type": "array", "minItems": 1, "maxItems": MAX_TASKS_PER_CALL,
          "items": { "anyOf": [{ "$ref": task }, { "description": "A refused task, with the reason, at the same index." }] } }
    ] });
    let question = json!({
        "type": "object", "required": ["task"], "additionalProperties": false,
        "properties": {
            "task": { "description": "A task as for `POST /v1/tasks`. Prompt and image are optional, because they do not change the cost.",
                      "oneOf": Model::ALL.map(quoted) },
            "tasks": { "type": "integer", "minimum": 1, "maximum": MAX_QUOTED_TASKS, "default": 1 }
        }
    });
    let models = Model::ALL.map(of_model);
    let task = json!({ "description": "Only `model` and `prompt` are required.", "oneOf": models });
    [
        (TaskRequestSchema::name(), task),
        (Submittable::name(), submission),
        (Quotable::name(), question),
    ]
}

const PLACEHOLDER: fn() -> RefOr<Schema> = RefOr::<Schema>::default;

impl PartialSchema for TaskRequestSchema {
    fn schema() -> RefOr<Schema> {
        PLACEHOLDER()
    }
}

impl ToSchema for TaskRequestSchema {
    fn name() -> Cow<'static, str> {
        "TaskRequest".into()
    }
}

impl PartialSchema for Submittable {
    fn schema() -> RefOr<Schema> {
        PLACEHOLDER()
    }
}

impl ToSchema for Submittable {
    fn name() -> Cow<'static, str> {
        "Submission".into()
    }
}

impl PartialSchema for Quotable {
    fn schema() -> RefOr<Schema> {
        PLACEHOLDER()
    }
}

impl ToSchema for Quotable {
    fn name() -> Cow<'static, str> {
        "QuoteQuery".into()
    }
}

fn quoted(model: Model) -> Value {
    let mut task = of_model(model);
    task["required"] = json!(["model"]);
    let prompt = &mut task["properties"]["prompt"];
    let pattern = prompt["pattern"].as_str().unwrap_or_default();
    *prompt = json!({ "type": "string", "maxLength": MAX_PROMPT_CHARS, "pattern": format!("^$|{pattern}") });
    task
}

fn of_model(model: Model) -> Value {
    let limits = model.limits();
    let sizes = size_names(&limits);
    let frames: Vec<_> = (MIN_FRAMES..=limits.max_frames).step_by(4).collect();
    let text = |least: usize| {
        // As the parser: no control characters but those that end lines and a tab, and not only blanks, in any script.
        let pattern = if least == 0 {
            r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]*$"
        } else {
            r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]*[^\s\x00-\x1F\x7F-\x9F\uFEFF][^\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]*$"
        };
        json!({ "type": "string", "minLength": least, "maxLength": MAX_PROMPT_CHARS, "pattern": pattern })
    };
    let number = |range: &std::ops::RangeInclusive<f64>, default: f64| json!({ "type": "number", "minimum": range.start(), "maximum": range.end(), "default": default });
    let mut lora = json!({
        "name": { "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]*$", "maxLength": MAX_LORA_NAME },
        "strength": { "type": "number", "minimum": LORA_STRENGTH.start(), "maximum": LORA_STRENGTH.end(), "default": 1.0 }
    });
    if model.has_two_experts() {
        lora["expert"] = json!({ "anyOf": [{ "enum": Expert::ALL.map(Expert::as_str) }, { "type": "null" }], "description": "The expert that the LoRA changes. Default: each expert for which it has weights." });
    }
    let mut properties = json!({
        "id": { "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_TASK_ID}}}$"), "description": "Id of the task. The same id with the same content is the same task; with other content it is a conflict." },
        "idempotency_key": { "type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "description": "Text that identifies the submission, in place of an id. The length is in bytes of UTF-8." },
        "model": { "const": model.as_str() },
        "prompt": text(1),
        "negative_prompt": text(0),
        "size": match limits.image {
            ImageRule::Refused => json!({ "enum": sizes, "default": sizes[0] }),
            ImageRule::Optional => json!({ "enum": sizes, "default": sizes[0], "description": "Size of the video in pixels. With an image, the default is the size that cuts least from it." }),
            ImageRule::Required => json!({ "enum": sizes, "default": "720p", "description": "Size of the video in pixels. 720p and 480p keep the image's shape within that area; other sizes cut the image." }),
        },
        "frames": { "enum": frames, "default": limits.max_frames },
        "quality": { "enum": Quality::ALL.map(Quality::as_str), "description": "Recipe in place of steps, guidance and shift: fast (4 steps, needs distilled weights), standard (Wan2.2's own) or best (60 steps)." },
        "steps": { "type": "integer", "minimum": STEPS.start(), "maximum": STEPS.end(), "default": limits.default_steps },
        "guidance": number(&GUIDANCE, limits.default_guidance.0),
        "shift": number(&SHIFT, limits.default_shift),
        "seed": { "type": "integer", "minimum": 0, "maximum": MAX_SEED, "description": "Random seed. Default: drawn at random; the answer contains it." },
        "loras": {
            "type": "array", "maxItems": MAX_LORAS, "description": "LoRAs that an operator has added to the bucket for this model.",
            "items": { "type": "object", "required": ["name"], "additionalProperties": false, "properties": lora }
        },
        "preview": { "type": "boolean", "default": false, "description": "Whether to publish small pictures of the unfinished video during the render." },
        "priority": { "enum": ["high", "normal"], "default": "normal" },
        "expires_at": { "type": "string", "format": "date-time", "description": "Deadline; must be in the future. A task that has not succeeded by then ends as `expired`." },
        "callback_url": { "type": "string", "format": "uri", "pattern": "^https?://", "maxLength": MAX_URL_BYTES, "description": "Where the event of the task's end is sent to, signed. A host with a public address, without a user or a password." },
        "labels": {
            "type": "object", "maxProperties": MAX_LABELS,
            "propertyNames": { "minLength": 1, "maxLength": MAX_LABEL_CHARS, "pattern": r"^[^\x00-\x1F\x7F-\x9F]*$" },
            "additionalProperties": { "type": "string", "maxLength": MAX_LABEL_CHARS, "pattern": r"^[^\x00-\x1F\x7F-\x9F]*$" }
        }
    });
    if let Some(high) = limits.default_guidance.1 {
        properties["guidance_high_noise"] = number(&GUIDANCE, high);
    }
    if limits.image != ImageRule::Refused {
        properties["image"] = json!({
            "description": "The first frame: the answer of `POST /v1/images`, or the image's bytes.",
            "oneOf": [
                { "type": "object", "required": ["s3_key"], "additionalProperties": false,
                  "properties": { "s3_key": { "type": "string", "pattern": "^images/", "maxLength": 512 } } },
                { "type": "object", "required": ["base64"], "additionalProperties": false,
                  "properties": { "base64": { "type": "string", "contentEncoding": "base64" } } }
            ]
        });
    }
    for (name, property) in properties.as_object_mut().into_iter().flatten() {
        if !["model", "prompt", "labels", "loras"].contains(&name.as_str()) {
            // As if it were not there.
            *property = json!({ "anyOf": [property.take(), { "type": "null" }] });
        }
    }
    let mut required = vec!["model", "prompt"];
    if limits.image == ImageRule::Required {
        required.push("image");
    }
    json!({
        "title": model.as_str(), "type": "object", "additionalProperties": false,
        "required": required, "properties": properties,
        // One of the two names at most, and a tier or numbers.
        "not": { "anyOf": [
            { "required": ["id", "idempotency_key"] },
            { "required": ["quality", "steps"] },
            { "required": ["quality", "guidance"] },
            { "required": ["quality", "guidance_high_noise"] },
            { "required": ["quality", "shift"] }
        ] }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::TaskRequest;

    #[test]
    fn the_states_of_the_page_are_those_that_filters_know() {
        let described = serde_json::to_value(StateName::schema()).unwrap();
        assert_eq!(described["enum"], json!(crate::filters::STATES));
    }

    #[test]
    fn every_field_of_a_request_is_in_the_page() {
        let written = Model::ALL.map(|model| of_model(model)["properties"].take());
        let written = written
            .iter()
            .flat_map(|properties| properties.as_object().unwrap().keys());
        // serde names the fields to whoever sends another.
        let error = serde_json::from_str::<TaskRequest>(r#"{"": 0}"#).unwrap_err();
        let error = error.to_string();
        let fields: BTreeSet<_> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(written.map(String::as_str).collect::<BTreeSet<_>>(), fields);
    }
}
