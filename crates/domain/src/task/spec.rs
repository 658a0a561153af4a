//! What a task renders.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Expert, Model, Priority};
use crate::quality::Quality;

pub const MAX_LORA_NAME: usize = 64;

// The hash of a request is made of its JSON, so its fields keep their names.
/// What is rendered, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskSpec {
    pub model: Model,
    pub priority: Priority,
    pub prompt: String,
    pub negative_prompt: Option<String>,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub fps: u32,
    /// The tier that was asked for; absent: none, and then nothing of it is said or hashed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quality: Option<Quality>,
    pub steps: u32,
    pub guidance: f64,
    pub guidance_high_noise: Option<f64>,
    pub shift: f64,
    pub seed: u64,
    /// S3 key of the first frame.
    pub image: Option<String>,
    /// How much of the picture is cut away to fill the size, in percent; absent without a picture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub crop_percent: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub loras: Vec<TaskLora>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub preview: bool,
    pub expires_at: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    /// Where the end of the task is sent to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub callback_url: Option<String>,
}

/// One LoRA of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskLora {
    pub name: String,
    pub strength: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<Expert>,
    /// Of the LoRA's index in the bucket when the task was accepted: another LoRA of that name is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Whether a LoRA may have this name: it stands in keys of the bucket.
pub fn is_lora_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let first = name.chars().next();
    first.is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() <= MAX_LORA_NAME
        && name.chars().all(plain)
}
