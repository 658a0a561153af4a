//! A pack from what is published: a directory in diffusers' layout, as `hf download` leaves it.

mod merge;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use spotreel_domain::model::Model;

use crate::index::{FAST_DIR, SAFETENSORS, components, experts, has_suffix, weights_of};
use crate::lora::rewrite;
use crate::marker::{Marker, clear, replace};
use crate::write::write;
use crate::{
    Compute, FORMAT, Fast, FastSteps, INDEX, Index, LoraError, Pack, PackError, PackFile, Sizes,
};

use merge::{Part, merge};

pub use merge::MergeError;

/// What stands in pack.json beside the files.
#[derive(Clone, Debug, PartialEq)]
pub struct PackRecipe {
    pub model: Model,
    pub compute: Compute,
    pub source: Map<String, Value>,
    pub license: String,
    pub fast: Option<FastRecipe>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FastRecipe {
    pub weights: FastWeights,
    pub steps: FastSteps,
    pub source: Map<String, Value>,
    pub license: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FastWeights {
    Loras {
        /// Of the transformer that counts first, which is the only one of ti2v-5B.
        high: PathBuf,
        low: Option<PathBuf>,
        /// What the matrices are multiplied by; needed where a file says no alpha.
        strength: Option<f64>,
    },
    /// Transformers in place of the model's own: a directory in diffusers' layout, of which only those are read.
    Transformers(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("the pack's directory must differ from the source directory {}", dir.display())]
    SameDirectory { dir: PathBuf },
    #[error("{} is not a transformer of {model}: {what} is {found}, not {wanted}", path.display())]
    OtherModel {
        path: PathBuf,
        model: Model,
        what: &'static str,
        found: String,
        wanted: u64,
    },
    #[error("{} is not a configuration file", path.display())]
    BadConfig {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} is for another model: {key} is {found}, and {wanted} in {}", path.display(), ours.display())]
    OtherConfig {
        path: PathBuf,
        ours: PathBuf,
        key: String,
        found: Box<Value>,
        wanted: Box<Value>,
    },
    #[error("{model} has {experts} transformers: give one LoRA for each")]
    Loras { model: Model, experts: usize },
    #[error("fast weights: {reason}")]
    FastSteps { reason: String },
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Makes the pack in `to`, pack.json last: one file a component, float32 as bfloat16 where the model counts in that, and
/// only what an engine reads. The same input makes the same bytes. Blocks; memory does not grow with the model. `read`
/// hears how many bytes of weights were read.
pub fn make(
    from: &Path,
    to: &Path,
    recipe: &PackRecipe,
    read: impl Fn(u64),
) -> Result<Pack, MakeError> {
    check_source(from, recipe)?;
    fs::create_dir_all(to).map_err(PackError::unwritable(to))?;
    let same = fs::canonicalize(from).ok() == fs::canonicalize(to).ok();
    if same {
        let dir = to.to_owned();
        return Err(MakeError::SameDirectory { dir });
    }
    clear(to)?;
    let mut files = Vec::new();
    for path in small_files(from, recipe.model)? {
        files.push(copy(&from.join(&path), to, path, |_| ())?);
    }
    let halve = recipe.compute == Compute::Bfloat16;
    for component in components(recipe.model) {
        let weights = weights_of(component);
        let part = Part {
            from: from.join(component),
            weights,
            path: format!("{component}/{weights}"),
            halve: halve && component != "vae",
            in_place_of: None,
        };
        files.push(merge(part, to, &read)?);
    }
    let fast = recipe.fast.as_ref();
    let fast = fast.map(|fast| add_fast(fast, recipe, from, to, &mut files, &read));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let index = Index {
        format: FORMAT.to_owned(),
        model: recipe.model,
        compute: recipe.compute,
        source: recipe.source.clone(),
        license: recipe.license.clone(),
        profiles: Vec::new(),
        fast: fast.transpose()?,
        files,
    };
    Ok(seal(to, &index)?)
}

/// Writes pack.json and what is known of the files, which were hashed as they were written.
fn seal(to: &Path, index: &Index) -> Result<Pack, PackError> {
    let path = to.join(INDEX);
    let text = serde_json::to_string_pretty(index).map_err(io::Error::from);
    let text = text.map_err(PackError::unwritable(&path))? + "\n";
    // As whoever reads it will.
    let pack = Pack::parse(to, text.as_bytes(), &path.display().to_string())?;
    replace(&path, text.as_bytes())?;
    let mut marker = Marker::of(&pack);
    for file in &pack.index.files {
        marker.note(&pack, file)?;
    }
    marker.save(&pack)?;
    Ok(pack)
}

/// That it is this model, before hours are spent on it.
fn check_source(from: &Path, recipe: &PackRecipe) -> Result<(), MakeError> {
    let model = recipe.model;
    let experts = experts(model);
    if let Some(Err(reason)) = recipe.fast.as_ref().map(|fast| fast.steps.check()) {
        return Err(MakeError::FastSteps { reason });
    }
    match recipe.fast.as_ref().map(|fast| &fast.weights) {
        Some(FastWeights::Loras { low, .. }) if low.is_some() != (experts.len() > 1) => {
            let experts = experts.len();
            return Err(MakeError::Loras { model, experts });
        }
        Some(FastWeights::Transformers(dir)) => {
            for expert in experts {
                let config = |dir: &Path| dir.join(expert).join("config.json");
                check_same_config(&config(dir), &config(from))?;
            }
        }
        _ => {}
    }
    let (in_channels, z_dim) = match model {
        Model::Ti2v5b => (48, 48),
        Model::T2vA14b => (16, 16),
        Model::I2vA14b => (36, 16),
    };
    let transformers = experts
        .iter()
        .map(|name| (*name, "in_channels", in_channels));
    for (component, what, wanted) in transformers.chain([("vae", "z_dim", z_dim)]) {
        let path = from.join(component).join("config.json");
        let config = read_config(&path)?;
        let found = &config[what];
        if found.as_u64() != Some(wanted) {
            let found = found.to_string();
            return Err(MakeError::OtherModel {
                path,
                model,
                what,
                found,
                wanted,
            });
        }
    }
    Ok(())
}

/// What is copied as it is: configurations, and the tokenizer.
fn small_files(from: &Path, model: Model) -> Result<Vec<String>, PackError> {
    let configs = components(model).into_iter();
    let mut paths: Vec<_> = configs.map(|part| format!("{part}/config.json")).collect();
    paths.extend(["model_index.json", "scheduler/scheduler_config.json"].map(str::to_owned));
    let folder = from.join("tokenizer");
    let entries = fs::read_dir(&folder).map_err(PackError::unreadable(&folder))?;
    for entry in entries {
        let name = entry.map_err(PackError::unreadable(&folder))?.file_name();
        if let Some(name) = name.to_str()
            && ["json", "model"]
                .iter()
                .any(|suffix| has_suffix(name, suffix))
        {
            paths.push(format!("tokenizer/{name}"));
        }
    }
    Ok(paths)
}

fn read_config(path: &Path) -> Result<Value, MakeError> {
    let text = fs::read(path).map_err(PackError::unreadable(path))?;
    serde_json::from_slice(&text).map_err(|source| MakeError::BadConfig {
        path: path.to_owned(),
        source,
    })
}

/// Distilled transformers are loaded by the configuration of the model's own.
fn check_same_config(theirs: &Path, ours: &Path) -> Result<(), MakeError> {
    let (found, wanted) = (read_config(theirs)?, read_config(ours)?);
    let keys = [&found, &wanted].into_iter().filter_map(Value::as_object);
    // Versions of diffusers differ in whether they write what is not set, and in what they note of themselves.
    let mut keys = keys.flat_map(Map::keys).filter(|key| !key.starts_with('_'));
    match keys.find(|key| found[key.as_str()] != wanted[key.as_str()]) {
        None => Ok(()),
        Some(key) => Err(MakeError::OtherConfig {
            path: theirs.to_owned(),
            ours: ours.to_owned(),
            key: key.clone(),
            found: Box::new(found[key.as_str()].clone()),
            wanted: Box::new(wanted[key.as_str()].clone()),
        }),
    }
}

fn add_fast(
    fast: &FastRecipe,
    recipe: &PackRecipe,
    from: &Path,
    to: &Path,
    files: &mut Vec<PackFile>,
    read: impl Fn(u64),
) -> Result<Fast, MakeError> {
    let experts = experts(recipe.model);
    let (mut loras, mut weights) = (BTreeMap::new(), BTreeMap::new());
    match &fast.weights {
        FastWeights::Loras {
            high,
            low,
            strength,
        } => {
            let given = [("high", Some(high)), ("low", low.as_ref())];
            for (expert, (name, lora)) in experts.iter().zip(given) {
                let Some(lora) = lora else { continue };
                let config = from.join(expert).join("config.json");
                let sizes = Sizes::read(&read_config(&config)?);
                let sizes = sizes.ok_or(LoraError::Config { path: config })?;
                let path = format!("lora/{name}.{SAFETENSORS}");
                files.push(rewrite(lora, &sizes, *strength, to, &path, &read)?);
                loras.insert((*expert).to_owned(), path);
            }
        }
        FastWeights::Transformers(dir) => {
            for expert in experts {
                let name = weights_of(expert);
                let path = format!("{FAST_DIR}/{expert}/{name}");
                let ours = to.join(expert).join(name);
                let part = Part {
                    from: dir.join(expert),
                    weights: name,
                    path: path.clone(),
                    halve: recipe.compute == Compute::Bfloat16,
                    in_place_of: Some(&ours),
                };
                files.push(merge(part, to, &read)?);
                // The model's own, which says the same.
                let config = from.join(expert).join("config.json");
                let beside = format!("{FAST_DIR}/{expert}/config.json");
                files.push(copy(&config, to, beside, |_| ())?);
                weights.insert((*expert).to_owned(), path);
            }
        }
    }
    Ok(Fast {
        loras,
        weights,
        recipe: Some(fast.steps),
        source: fast.source.clone(),
        license: fast.license.clone(),
    })
}

fn copy(from: &Path, to: &Path, path: String, read: impl Fn(u64)) -> Result<PackFile, PackError> {
    let mut source = File::open(from).map_err(PackError::unreadable(from))?;
    write(to, path.clone(), |out| {
        let copied = io::copy(&mut source, out);
        read(copied.map_err(PackError::unwritable(to.join(path)))?);
        Ok(())
    })
}
