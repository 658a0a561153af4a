//! `pack.json`: what a pack is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use spotreel_domain::model::{GUIDANCE, Model, SHIFT, STEPS};

use crate::PackError;

pub const FORMAT: &str = "wanpack/1";
pub const INDEX: &str = "pack.json";
/// 64 kB would do for the index of any real pack.
pub(crate) const MAX_INDEX_BYTES: u64 = 1 << 20;
/// What `torch.load()` would open, and with it any code inside.
const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];
pub(crate) const SAFETENSORS: &str = "safetensors";
/// The low-noise expert's weights: the only file that a render can begin without.
const LATE: &str = "transformer_2/diffusion_pytorch_model.safetensors";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub format: String,
    pub model: Model,
    pub compute: Compute,
    /// Where the weights are published, and which version of them.
    pub source: Map<String, Value>,
    pub license: String,
    /// In order of preference; empty: the engine's own order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<Fast>,
    pub files: Vec<PackFile>,
}

/// The number format of text encoder and transformers. The VAE always counts in float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    Bfloat16,
    Float32,
}

/// Distilled weights, for tasks of the quality `fast`: a LoRA for each transformer, or other weights in their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fast {
    /// By transformer, the file in the pack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loras: BTreeMap<String, String>,
    /// The same of whole transformers. Each has the configuration of the one in whose place it is loaded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, String>,
    /// What the weights were distilled for; absent in older packs, whose LoRAs are those of four steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<FastSteps>,
    pub source: Map<String, Value>,
    pub license: String,
}

/// The solvers that the engine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Needs no history, so few steps are exact.
    #[default]
    Euler,
    Unipc,
}

/// How distilled weights are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FastSteps {
    #[serde(default)]
    pub scheduler: Scheduler,
    pub steps: u32,
    pub shift: f64,
    /// Of every expert; 1 is none.
    pub guidance: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFile {
    /// Relative to the pack, with slashes.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// An index and where its files lie, or are to lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    pub dir: PathBuf,
    pub index: Index,
    /// Of pack.json, and so of everything.
    pub sha256: String,
}

impl Pack {
    /// Reads the index; the files are looked at by [`Pack::measure`] and [`crate::verify`].
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        let path = dir.join(INDEX);
        let mut text = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut text));
        read.map_err(|source| PackError::NoPack {
            path: path.clone(),
            source,
        })?;
        Self::parse(dir, &text, &path.display().to_string())
    }

    /// The same of a text at hand; `place` says where it comes from.
    pub(crate) fn parse(dir: &Path, text: &[u8], place: &str) -> Result<Self, PackError> {
        Ok(Self {
            dir: dir.to_owned(),
            index: Index::parse(text, place)?,
            sha256: hex::encode(Sha256::digest(text)),
        })
    }

    pub fn of_model(self, wanted: Model) -> Result<Self, PackError> {
        match self.index.model {
            found if found == wanted => Ok(self),
            found => Err(PackError::WrongModel {
                place: self.dir.display().to_string(),
                found,
                wanted,
            }),
        }
    }

    pub fn path(&self, file: &PackFile) -> PathBuf {
        self.dir.join(&file.path)
    }

    /// Whether every file is there in full length.
    pub fn measure(&self) -> Result<(), PackError> {
        self.index
            .files
            .iter()
            .try_for_each(|file| measure(&self.path(file), file))
    }
}

pub(crate) fn measure(path: &Path, file: &PackFile) -> Result<(), PackError> {
    let found = std::fs::metadata(path).map_err(PackError::unreadable(path))?;
    match found.len() {
        found if found == file.bytes => Ok(()),
        found => Err(PackError::Truncated {
            path: path.to_owned(),
            found,
            wanted: file.bytes,
        }),
    }
}

impl Index {
    pub(crate) fn parse(text: &[u8], place: &str) -> Result<Self, PackError> {
        let bad = bad_index(place);
        if text.len() as u64 > MAX_INDEX_BYTES {
            return Err(bad(format!("it is larger than {MAX_INDEX_BYTES} bytes")));
        }
        let index: Self = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        index.check(bad)?;
        Ok(index)
    }

    fn check(&self, bad: impl Fn(String) -> PackError) -> Result<(), PackError> {
        check_format(&self.format).map_err(&bad)?;
        let mut paths = BTreeSet::new();
        for file in &self.files {
            check_path(&file.path).map_err(&bad)?;
            if PICKLES.iter().any(|suffix| has_suffix(&file.path, suffix)) {
                let path = file.path.clone();
                return Err(PackError::Pickle { path });
            }
            file.check_hash().map_err(&bad)?;
            if !paths.insert(file.path.as_str()) {
                return Err(bad(format!("{} is listed twice", file.path)));
            }
        }
        if let Some(fast) = &self.fast {
            fast.check(self.model, &bad)?;
        }
        let fast = self.fast.iter().flat_map(Fast::files);
        match needed(self.model)
            .into_iter()
            .chain(fast)
            .find(|path| !paths.contains(path.as_str()))
        {
            None => Ok(()),
            Some(path) => Err(PackError::NotListed {
                model: self.model,
                path,
            }),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What lies below `component/`.
    pub fn component(&self, component: &str) -> impl Iterator<Item = &PackFile> {
        let prefix = format!("{component}/");
        let inside = move |file: &&PackFile| file.path.starts_with(&prefix);
        self.files.iter().filter(inside)
    }

    /// The order in which an engine needs the files, and in which they are fetched.
    pub fn load_order(&self) -> Vec<&PackFile> {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|file| (rank(&file.path), file.path.as_str()));
        files
    }
}

impl Fast {
    fn check(&self, model: Model, bad: impl Fn(String) -> PackError) -> Result<(), PackError> {
        if let Some(recipe) = self.recipe {
            recipe.check().map_err(&bad)?;
        }
        if !self.weights.is_empty() && !self.loras.is_empty() {
            return Err(bad("fast: it has both LoRAs and weights".to_owned()));
        }
        let experts = experts(model);
        for (transformer, path) in self.loras.iter().chain(&self.weights) {
            if !experts.contains(&transformer.as_str()) {
                return Err(bad(format!("fast: {model} has no {transformer:?}")));
            }
            if !has_suffix(path, SAFETENSORS) {
                return Err(PackError::Pickle { path: path.clone() });
            }
        }
        // diffusers loads a directory, by the one name that it knows for weights.
        let file = weights_of("transformer");
        let is_named = |path: &String| path.ends_with(&format!("/{file}"));
        let paths: BTreeSet<_> = self.weights.values().collect();
        if !paths.iter().all(|path| is_named(path)) || paths.len() < self.weights.len() {
            return Err(bad(format!(
                "fast: the weights of each transformer are a file {file} in a directory of its own"
            )));
        }
        // The standard weights of one expert and distilled ones of the other would make noise.
        match self.weights.len() {
            0 => Ok(()),
            found if found == experts.len() => Ok(()),
            found => Err(bad(format!(
                "fast: {model} has {} transformers, not {found}",
                experts.len()
            ))),
        }
    }

    fn files(&self) -> impl Iterator<Item = String> {
        let configs = self.weights.values().map(|path| config_beside(path));
        let files = self.loras.values().chain(self.weights.values()).cloned();
        files.chain(configs)
    }
}

/// diffusers loads weights by the configuration in their directory.
fn config_beside(weights: &str) -> String {
    match weights.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/config.json"),
        None => "config.json".to_owned(),
    }
}

impl FastSteps {
    /// As of any task.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("shift", self.shift, &SHIFT),
            ("guidance", self.guidance, &GUIDANCE),
        ];
        if !STEPS.contains(&self.steps) {
            let (low, high) = (STEPS.start(), STEPS.end());
            return Err(format!("fast: steps is {low} to {high}"));
        }
        for (name, value, range) in ranges {
            if !range.contains(&value) {
                let (low, high) = (range.start(), range.end());
                return Err(format!("fast: {name} is {low} to {high}"));
            }
        }
        Ok(())
    }
}

impl PackFile {
    /// An engine can load the model and begin to render while this one is still on its way.
    pub fn is_late(&self) -> bool {
        is_late(&self.path)
    }

    pub(crate) fn check_hash(&self) -> Result<(), String> {
        let (path, hash) = (&self.path, &self.sha256);
        match is_sha256(hash) {
            true => Ok(()),
            false => Err(format!("{path}: {hash:?} is not a SHA-256 in lower case")),
        }
    }
}

pub(crate) fn is_late(path: &str) -> bool {
    path == LATE
}

/// Where distilled transformers lie, each below its own name.
pub(crate) const FAST_DIR: &str = "fast";

/// What is small, then text encoder, VAE, high-noise expert, LoRAs and distilled transformers, low-noise expert.
fn rank(path: &str) -> usize {
    let heavy = ["text_encoder/", "vae/", "transformer/", "lora/"];
    if !has_suffix(path, SAFETENSORS) {
        return 0;
    }
    match heavy.iter().position(|prefix| path.starts_with(prefix)) {
        Some(at) => at + 1,
        None if is_late(path) => heavy.len() + 1,
        None => heavy.len(),
    }
}

/// diffusers' names, high noise first.
pub(crate) fn experts(model: Model) -> &'static [&'static str] {
    match model {
        Model::Ti2v5b => &["transformer"],
        Model::T2vA14b | Model::I2vA14b => &["transformer", "transformer_2"],
    }
}

/// The weights of a component, as diffusers and transformers name them.
pub(crate) fn weights_of(component: &str) -> &'static str {
    match component {
        "text_encoder" => "model.safetensors",
        _ => "diffusion_pytorch_model.safetensors",
    }
}

/// The components with weights.
pub(crate) fn components(model: Model) -> Vec<&'static str> {
    [&["text_encoder", "vae"], experts(model)].concat()
}

fn needed(model: Model) -> Vec<String> {
    let mut paths: Vec<_> = components(model)
        .into_iter()
        .flat_map(|part| {
            let weights = weights_of(part);
            [format!("{part}/config.json"), format!("{part}/{weights}")]
        })
        .collect();
    let others = [
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ];
    paths.extend(others.map(str::to_owned));
    paths
}

pub(crate) fn bad_index(place: &str) -> impl Fn(String) -> PackError {
    move |reason| PackError::BadIndex {
        place: place.to_owned(),
        reason,
    }
}

pub(crate) fn check_format(format: &str) -> Result<(), String> {
    match format {
        FORMAT => Ok(()),
        _ => Err(format!("the format is {format:?}, not {FORMAT:?}")),
    }
}

/// Inside of the pack, and none of the names that this crate gives to files of its own.
fn check_path(path: &str) -> Result<(), String> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    let control = path.chars().any(char::is_control);
    if control || !path.split('/').all(plain) {
        return Err(format!("{path:?} is no plain path inside of the pack"));
    }
    if path == INDEX || has_suffix(path, PART) {
        return Err(format!("{path:?} is a name that packs keep for themselves"));
    }
    Ok(())
}

pub(crate) const PART: &str = "part";

pub(crate) fn has_suffix(path: &str, suffix: &str) -> bool {
    let found = Path::new(path).extension();
    found.is_some_and(|found| found.eq_ignore_ascii_case(suffix))
}

pub(crate) fn is_sha256(text: &str) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 64 && text.bytes().all(digit)
}
