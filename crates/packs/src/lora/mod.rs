//! LoRAs: people's own changes of a model's weights. In the bucket each is `loras/<name>/lora.json`, and its files by
//! their hash beside it. Blobs of packs are elsewhere, so a prune of packs never meets a LoRA.

mod check;
mod layers;
mod remote;
mod rewrite;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spotreel_domain::model::{Expert, Model};
use spotreel_domain::task::is_lora_name;

use crate::index::{bad_index, experts};
use crate::{PackError, PackFile};

pub use check::{LoraError, LoraReport, check_lora};
pub use layers::Sizes;
pub use remote::{AddLora, AddedLora, LoraFiles, LoraRemoteError};
pub(crate) use rewrite::rewrite;

pub const LORA_FORMAT: &str = "wanlora/1";
pub const LORA_INDEX: &str = "lora.json";
/// Of one file, as it is added. Workers keep twelve of them on their disk. All layers of an A14B expert in bfloat16 have
/// that many bytes at rank 112.
pub const MAX_LORA_BYTES: u64 = 1 << 30;
/// An index has at most two files.
pub(crate) const MAX_LORA_INDEX_BYTES: u64 = 64 << 10;

/// `lora.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraIndex {
    pub format: String,
    pub name: String,
    pub model: Model,
    /// By transformer, as diffusers names them.
    pub files: BTreeMap<String, StoredLora>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredLora {
    pub bytes: u64,
    pub sha256: String,
}

/// A LoRA as the bucket has it now.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedLora {
    pub index: LoraIndex,
    /// Of lora.json, and so of everything.
    pub sha256: String,
}

/// diffusers' name of the transformer.
pub fn transformer_of(expert: Expert) -> &'static str {
    match expert {
        Expert::High => "transformer",
        Expert::Low => "transformer_2",
    }
}

impl LoraIndex {
    pub(crate) fn parse(text: &[u8], place: &str) -> Result<Self, PackError> {
        let bad = bad_index(place);
        let index: Self = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if index.format != LORA_FORMAT {
            let format = &index.format;
            return Err(bad(format!(
                "the format is {format:?}, not {LORA_FORMAT:?}"
            )));
        }
        if !is_lora_name(&index.name) {
            return Err(bad(format!("{:?} is no name of a LoRA", index.name)));
        }
        let model = index.model;
        for (transformer, file) in &index.files {
            if !experts(model).contains(&transformer.as_str()) {
                return Err(bad(format!("{model} has no {transformer:?}")));
            }
            let as_pack_file = PackFile {
                path: transformer.clone(),
                bytes: file.bytes,
                sha256: file.sha256.clone(),
            };
            as_pack_file.check_hash().map_err(&bad)?;
        }
        match index.files.is_empty() {
            true => Err(bad("it has no files".to_owned())),
            false => Ok(index),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Whether it changes this expert; with None, whether it changes any.
    pub fn changes(&self, expert: Option<Expert>) -> bool {
        expert.is_none_or(|expert| self.files.contains_key(transformer_of(expert)))
    }
}
