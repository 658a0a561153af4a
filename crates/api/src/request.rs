//! A client's request, and the rules that it must meet. The limits of each model are domain's.
//!
//! A request is refused, never rounded: a video of another size than the one asked for is a surprise that was paid for.

mod labels;
mod loras;
mod recipe;
mod said;
mod size;
mod text;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spotreel_domain::model::{
    GUIDANCE, ImageRule, MAX_SEED, MIN_FRAMES, Model, Priority, SHIFT, STEPS,
};
use spotreel_domain::task::{TaskLora, TaskSpec};
use spotreel_domain::webhook::WebhookUrl;
use spotreel_domain::{Owner, Quality, TaskId};

use crate::error::Violation;
use crate::webhook::rule_of;
use crate::whole;
pub use loras::{LORA_STRENGTH, LoraRequest, MAX_LORAS};
pub use size::{CROP_WARNING_PERCENT, crop_percent, size_names, size_of_picture};
use text::{check_text, has_at_most};

/// The most labels a task carries, and the longest key or value: they travel in every event.
pub const MAX_LABELS: usize = 16;
pub const MAX_LABEL_CHARS: usize = 128;
/// Broken rules that one refusal names: as many as a request has fields, several times over.
pub const MAX_VIOLATIONS: usize = 64;
pub const MAX_IDEMPOTENCY_KEY: usize = 256;

/// A task as a client writes it. All but model and prompt has a default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    pub model: String,
    pub prompt: String,
    /// Absent: the model's own. Empty: none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// `WIDTHxHEIGHT`, as Wan2.2's own command line has it (there with a `*`). Absent, and with `480p` and `720p` of
    /// i2v-A14B, the picture's shape decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub frames: Option<u32>,
    /// In place of steps, guidance and shift.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub steps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_high_noise: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "loras::few")]
    pub loras: Vec<LoraRequest>,
    /// Whether small pictures of the unfinished video are wanted while it is rendered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// A task that has not succeeded by then ends as `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(
        skip_serializing_if = "std::collections::BTreeMap::is_empty",
        deserialize_with = "labels::each_once"
    )]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Where the event of the task's end is sent to, signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

/// The first frame: an object that lies in the bucket already, or the bytes themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ImageSource {
    /// A key in the product's bucket, under `images/`.
    S3Key(String),
    /// JPEG, PNG or WebP in standard base64.
    Base64(String),
}

/// A request that met every rule; the id, the seed, the image's key and what it decides, and the LoRAs' hashes are
/// settled by whoever accepts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    pub id: Option<TaskId>,
    pub spec: TaskSpec,
    /// Of what the client said, before anything was drawn or filled in for it.
    pub content_hash: String,
    pub seed_given: bool,
    pub image: Option<ImageSource>,
    /// The size of `spec` is only its area, or a default: [`size_of_picture`] has the right one.
    pub size_of_picture: bool,
}

impl TaskRequest {
    /// All broken rules at once, so that a client mends its request in one go.
    pub fn validate(&self, now: Timestamp) -> Result<Valid, Vec<Violation>> {
        self.validate_for(None, now)
    }

    /// The same for a task of `owner`'s: its idempotency keys are the owner's own.
    pub fn validate_for(
        &self,
        owner: Option<&Owner>,
        now: Timestamp,
    ) -> Result<Valid, Vec<Violation>> {
        let mut broken = Vec::new();
        let mut refuse = |field: &str, rule: &str, message: String| {
            if broken.len() < MAX_VIOLATIONS {
                broken.push(Violation::new(field, rule, message));
            }
        };
        let id = self.settle_id(owner, &mut refuse);
        let prompt = check_text("prompt", &self.prompt, 1, &mut refuse);
        let negative_prompt = self
            .negative_prompt
            .as_ref()
            .map(|text| check_text("negative_prompt", text, 0, &mut refuse));
        self.check_labels(&mut refuse);
        let callback_url = self.settle_callback_url(&mut refuse);
        if self.expires_at.is_some_and(|at| at <= now) {
            refuse(
                "expires_at",
                "future",
                "expires_at lies in the past: give a later time or leave it out".into(),
            );
        }
        if self.seed.is_some_and(|seed| seed > MAX_SEED) {
            refuse("seed", "range", format!("seed is 0 to {MAX_SEED}"));
        }
        let Some(model) = Model::parse(&self.model) else {
            let names = Model::ALL.map(Model::as_str).join(", ");
            refuse(
                "model",
                "known",
                format!("model {:?} is unknown: use one of {names}", self.model),
            );
            return Err(broken);
        };
        let limits = model.limits();
        let ((width, height), size_of_picture) = self.settle_size(&limits, &mut refuse);
        let frames = self.settle_frames(model, limits.max_frames, &mut refuse);
        let recipe = self.settle_recipe(model, &mut refuse);
        let steps = self.steps.unwrap_or(recipe.steps);
        if !STEPS.contains(&steps) {
            refuse(
                "steps",
                "range",
                format!("steps is {} to {}", STEPS.start(), STEPS.end()),
            );
        }
        let (low, high) = recipe.guidance;
        let guidance = in_range("guidance", self.guidance, low, &GUIDANCE, &mut refuse);
        let guidance_high_noise = self.settle_high_noise(model, high, &mut refuse);
        let shift = in_range("shift", self.shift, recipe.shift, &SHIFT, &mut refuse);
        self.check_image(model, limits.image, &mut refuse);
        self.check_loras(model, &mut refuse);
        let spec = TaskSpec {
            model,
            priority: self.priority.unwrap_or_default(),
            prompt,
            negative_prompt,
            width,
            height,
            frames,
            fps: limits.fps,
            quality: self.quality,
            steps,
            guidance,
            guidance_high_noise,
            shift,
            seed: self.seed.unwrap_or_default(),
            image: match &self.image {
                Some(ImageSource::S3Key(key)) => Some(key.clone()),
                _ => None,
            },
            crop_percent: None,
            loras: self.loras.iter().map(TaskLora::from).collect(),
            preview: self.preview.unwrap_or_default(),
            expires_at: self.expires_at,
            labels: self.labels.clone(),
            callback_url,
        };
        if !broken.is_empty() {
            return Err(broken);
        }
        let content_hash = self.content_hash(&spec, size_of_picture);
        Ok(Valid {
            id,
            spec,
            content_hash,
            seed_given: self.seed.is_some(),
            image: self.image.clone(),
            size_of_picture,
        })
    }

    /// Gives the task the name that its call has, unless it has one of its own.
    pub fn name(&mut self, key: String) {
        if self.id.is_none() && self.idempotency_key.is_none() {
            self.idempotency_key = Some(key);
        }
    }

    /// The id that the client chose, itself or by an idempotency key, where it is a good one.
    pub fn chosen_id(&self, owner: Option<&Owner>) -> Option<TaskId> {
        self.settle_id(owner, &mut |_, _, _| ())
    }

    fn settle_frames(
        &self,
        model: Model,
        most: u32,
        refuse: &mut impl FnMut(&str, &str, String),
    ) -> u32 {
        let frames = self.frames.unwrap_or(most);
        if !(MIN_FRAMES..=most).contains(&frames) || frames % 4 != 1 {
            let message =
                format!("frames is 4n+1 from {MIN_FRAMES} to {most} for {model}, {frames} is not");
            refuse("frames", "4n+1", message);
        }
        frames
    }

    fn settle_high_noise(
        &self,
        model: Model,
        default: Option<f64>,
        refuse: &mut impl FnMut(&str, &str, String),
    ) -> Option<f64> {
        let field = "guidance_high_noise";
        match (self.guidance_high_noise, default) {
            (Some(_), None) => {
                let message = format!("{model} has one expert only: leave {field} out");
                refuse(field, "two_experts", message);
                None
            }
            (given, Some(default)) => Some(in_range(field, given, default, &GUIDANCE, refuse)),
            (None, None) => None,
        }
    }

    fn settle_id(
        &self,
        owner: Option<&Owner>,
        refuse: &mut impl FnMut(&str, &str, String),
    ) -> Option<TaskId> {
        match (&self.id, &self.idempotency_key) {
            (Some(_), Some(_)) => {
                refuse(
                    "idempotency_key",
                    "either",
                    "give id or idempotency_key, not both".into(),
                );
                None
            }
            (Some(id), None) => match TaskId::parse(id) {
                Ok(id) => Some(id),
                Err(error) => {
                    refuse("id", "token", error.to_string());
                    None
                }
            },
            (None, Some(key)) if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY => {
                let message = format!("idempotency_key has 1 to {MAX_IDEMPOTENCY_KEY} bytes");
                refuse("idempotency_key", "length", message);
                None
            }
            (None, Some(key)) => Some(TaskId::from_idempotency_key_of(owner, key)),
            (None, None) => None,
        }
    }

    fn check_labels(&self, refuse: &mut impl FnMut(&str, &str, String)) {
        if self.labels.len() > MAX_LABELS {
            refuse(
                "labels",
                "count",
                format!("a task has at most {MAX_LABELS} labels"),
            );
            return;
        }
        for (key, value) in &self.labels {
            let fits = |text: &str| {
                has_at_most(text, MAX_LABEL_CHARS) && !text.chars().any(char::is_control)
            };
            if key.is_empty() || !fits(key) || !fits(value) {
                let message = format!(
                    "a label's key has 1 to {MAX_LABEL_CHARS} characters, its value at most as many, none of them a control character"
                );
                refuse("labels", "text", message);
            }
        }
    }

    /// As a parser of URLs writes it, so that everybody reads the same host. Which hosts are open is a matter of the
    /// deployment: intake checks it.
    fn settle_callback_url(&self, refuse: &mut impl FnMut(&str, &str, String)) -> Option<String> {
        let url = self.callback_url.as_ref()?;
        match WebhookUrl::parse(url) {
            Ok(target) => Some(target.into()),
            Err(bad) => {
                refuse("callback_url", rule_of(&bad), bad.to_string());
                None
            }
        }
    }

    fn check_image(
        &self,
        model: Model,
        rule: ImageRule,
        refuse: &mut impl FnMut(&str, &str, String),
    ) {
        match (&self.image, rule) {
            (None, ImageRule::Required) => {
                refuse(
                    "image",
                    "required",
                    format!("{model} needs an image: give s3_key or base64"),
                );
            }
            (Some(_), ImageRule::Refused) => {
                refuse(
                    "image",
                    "refused",
                    format!("{model} takes no image: leave it out or use another model"),
                );
            }
            (Some(ImageSource::S3Key(key)), _) if !is_image_key(key) => {
                let message =
                    "s3_key is a key under images/, without '..', '//' and control characters";
                refuse("image.s3_key", "key", message.into());
            }
            _ => {}
        }
    }

    /// Two submissions of one id are the same task exactly when this is equal.
    fn content_hash(&self, spec: &TaskSpec, size_of_picture: bool) -> String {
        let mut said = serde_json::json!({
            "spec": spec,
            "seed": self.seed,
            "image": self.image.as_ref().map(|image| match image {
                ImageSource::S3Key(key) => format!("key:{key}"),
                ImageSource::Base64(text) => format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes()))),
            }),
        });
        if size_of_picture {
            said["size_of_picture"] = true.into();
        }
        // serde_json sorts the keys of its maps: the text is the same on every machine.
        hex::encode(Sha256::digest(said.to_string().as_bytes()))
    }
}

fn is_image_key(key: &str) -> bool {
    key.len() <= 512
        && key
            .strip_prefix("images/")
            .is_some_and(|rest| !rest.is_empty())
        && !key.contains("//")
        && !key.split('/').any(|part| part == ".." || part == ".")
        && !key.chars().any(char::is_control)
}

fn in_range(
    field: &str,
    given: Option<f64>,
    default: f64,
    range: &std::ops::RangeInclusive<f64>,
    refuse: &mut impl FnMut(&str, &str, String),
) -> f64 {
    let value = given.unwrap_or(default);
    if !range.contains(&value) {
        refuse(
            field,
            "range",
            format!("{field} is {} to {}", range.start(), range.end()),
        );
    }
    value
}
