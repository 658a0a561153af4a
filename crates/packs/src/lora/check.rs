//! Whether a LoRA file fits a model: every key has a place there, nothing is dropped in silence, every number is finite.
//!
//! The rules are the engine's (`worker/engines/wan/spotreel_wan/lora.py`): a file that passes here merges there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use super::layers::{Naming, Sizes};
use crate::numbers::Numbers;
use crate::tensors::read_head;
use crate::{Head, PackError};

const READ_SIZE: usize = 1 << 20;
/// The one layer of which some files carry the whole change.
const HEAD: &str = "head.head";

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraReport {
    /// Layers with matrices.
    pub layers: usize,
    /// Biases, norms and modulation that it changes whole.
    pub changes: usize,
    /// Whether every layer says its alpha. If not, nobody knows how strong the file is meant.
    pub has_alpha: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error(transparent)]
    File(#[from] PackError),
    #[error("{} is not a LoRA of this model: {reason}", path.display())]
    Unfit { path: PathBuf, reason: String },
    #[error(
        "{} has no alpha for {layer}, so its strength is not known: give a strength; 1 leaves the matrices unchanged", path.display()
    )]
    NoAlpha { path: PathBuf, layer: String },
    #[error("{} is not the configuration of a transformer: the sizes of its layers are missing", path.display())]
    Config { path: PathBuf },
    #[error(
        "the strength {strength} must be a finite number above 0; 1 leaves the matrices unchanged. A task's own strength may be negative"
    )]
    Strength { strength: f64 },
}

/// The matrices of one layer, as far as they were found.
#[derive(Debug, Default)]
struct Layer {
    down: Option<Vec<usize>>,
    up: Option<Vec<usize>>,
    alpha: bool,
    bias: bool,
    /// All of its weights are changed, without matrices.
    whole: bool,
}

/// What a key says: of which layer it is, by the authors' name, and what of it.
pub(super) struct Key {
    pub layer: String,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Down,
    Up,
    Alpha,
    /// `diff`, `diff_b` or `diff_m`.
    Change(&'static str),
}

/// Reads the whole file. `strength`: whether one is given with it.
pub fn check_lora(path: &Path, sizes: &Sizes, strength: bool) -> Result<LoraReport, LoraError> {
    let unfit = |reason: String| LoraError::Unfit {
        path: path.to_owned(),
        reason,
    };
    let head = read_head(path)?;
    let mut file = File::open(path).map_err(PackError::unreadable(path))?;
    let keys: BTreeSet<_> = head.metadata.offset_keys().into_iter().collect();
    let (mut layers, mut changes) = (BTreeMap::<String, Layer>::new(), 0);
    let mut naming = None;
    for name in &keys {
        let (named, rest) = Naming::of(name);
        if *naming.get_or_insert(named) != named {
            let first = keys.first().map_or("", String::as_str);
            return Err(unfit(format!(
                "{name} and {first} are named in different ways"
            )));
        }
        let key = parse(named, rest).ok_or_else(|| unfit(format!("{name} has no place")))?;
        let numbers = read(&mut file, &head, name, path)?;
        if !numbers.finite {
            return Err(unfit(format!("{name} holds NaN or infinite numbers")));
        }
        let shape = head.metadata.info(name).map(|info| info.shape.clone());
        let shape = shape.unwrap_or_default();
        let layer = || -> Result<(u64, u64), LoraError> {
            let found = sizes.linear(&key.layer);
            found.ok_or_else(|| unfit(format!("{name} has no place")))
        };
        let fits = |wanted: &[Option<u64>]| {
            let same = shape
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| wanted.is_none_or(|wanted| wanted == *found as u64));
            match same && shape.len() == wanted.len() {
                true => Ok(()),
                false => Err(unfit(format!("{name} has the shape {shape:?}"))),
            }
        };
        match key.what {
            What::Down => {
                fits(&[None, Some(layer()?.1)])?;
                layers.entry(key.layer).or_default().down = Some(shape);
            }
            What::Up => {
                fits(&[Some(layer()?.0), None])?;
                layers.entry(key.layer).or_default().up = Some(shape);
            }
            What::Alpha => {
                layer()?;
                if shape.iter().product::<usize>() != 1 {
                    return Err(unfit(format!("{name} is more than one number")));
                }
                let alphas =
                    self::numbers(&mut file, &head, name).map_err(PackError::unreadable(path))?;
                if let Some(alpha) = alphas.first().filter(|alpha| **alpha <= 0.0) {
                    return Err(unfit(format!(
                        "{name} is {alpha}: an alpha must be above 0"
                    )));
                }
                layers.entry(key.layer).or_default().alpha = true;
            }
            What::Change(suffix) => {
                let wanted = match named {
                    // musubi-tuner and diffusers write none of these.
                    Naming::Musubi => None,
                    Naming::Diffusers if suffix != "diff_b" => None,
                    _ => sizes.change(&key.layer, suffix),
                };
                match wanted {
                    Some(wanted) if wanted == shape.iter().product::<usize>() as u64 => {
                        changes += 1;
                    }
                    Some(_) => return Err(unfit(format!("{name} has the shape {shape:?}"))),
                    // Some trainers write zeros for what they did not train.
                    None if numbers.zero => continue,
                    None => return Err(unfit(format!("{name} has no place"))),
                }
                if suffix == "diff_b" && sizes.linear(&key.layer).is_some() {
                    layers.entry(key.layer).or_default().bias = true;
                } else if key.layer == HEAD {
                    layers.entry(key.layer).or_default().whole = true;
                }
            }
        }
    }
    let has_alpha = check_layers(&layers, path, strength)?;
    Ok(LoraReport {
        layers: layers.len(),
        changes,
        has_alpha,
    })
}

/// Whether every layer has an alpha. `strength`: whether one is given with the file.
fn check_layers(
    layers: &BTreeMap<String, Layer>,
    path: &Path,
    strength: bool,
) -> Result<bool, LoraError> {
    let unfit = |reason: String| LoraError::Unfit {
        path: path.to_owned(),
        reason,
    };
    let mut has_alpha = true;
    for (name, layer) in layers {
        if layer.whole {
            let alone = layer.bias && layer.down.is_none() && layer.up.is_none() && !layer.alpha;
            match alone {
                true => continue,
                false => {
                    return Err(unfit(format!(
                        "{name} has a whole change and not its bias's, or matrices as well"
                    )));
                }
            }
        }
        let (Some(down), Some(up)) = (&layer.down, &layer.up) else {
            let has = match (layer.down.is_some(), layer.up.is_some(), layer.bias) {
                (true, ..) => "one matrix of two",
                (_, true, _) => "one matrix of two",
                (.., true) => "a bias and no matrices",
                _ => "an alpha and no matrices",
            };
            return Err(unfit(format!("{name} has {has}")));
        };
        if down[0] != up[1] {
            return Err(unfit(format!(
                "the matrices of {name} have the ranks {} and {}",
                down[0], up[1]
            )));
        }
        if !layer.alpha && !strength {
            return Err(LoraError::NoAlpha {
                path: path.to_owned(),
                layer: name.clone(),
            });
        }
        has_alpha &= layer.alpha;
    }
    if !layers.keys().any(|name| name.starts_with("blocks.")) {
        return Err(unfit("it changes no layer of a block".to_owned()));
    }
    Ok(has_alpha)
}

pub(super) fn parse(naming: Naming, rest: &str) -> Option<Key> {
    const ENDS: [(&str, What); 9] = [
        (".lora_A.weight", What::Down),
        (".lora_down.weight", What::Down),
        (".lora_B.weight", What::Up),
        (".lora_up.weight", What::Up),
        (".alpha", What::Alpha),
        (".lora_B.bias", What::Change("diff_b")),
        (".diff", What::Change("diff")),
        (".diff_b", What::Change("diff_b")),
        (".diff_m", What::Change("diff_m")),
    ];
    ENDS.into_iter().find_map(|(end, what)| {
        let layer = rest.strip_suffix(end)?;
        let layer = naming.authors(layer);
        Some(Key { layer, what })
    })
}

/// The numbers of a tensor that is small.
pub(super) fn numbers(file: &mut File, head: &Head, name: &str) -> std::io::Result<Vec<f64>> {
    let Some(info) = head.metadata.info(name) else {
        return Ok(Vec::new());
    };
    let (start, end) = info.data_offsets;
    file.seek(SeekFrom::Start(head.data_at + start as u64))?;
    let mut bytes = vec![0; end - start];
    file.read_exact(&mut bytes)?;
    Ok(match info.dtype {
        Dtype::F64 => each(&bytes, f64::from_le_bytes),
        Dtype::F32 => each(&bytes, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(&bytes, |b| f16::from_le_bytes(b).into()),
        Dtype::BF16 => each(&bytes, |b| bf16::from_le_bytes(b).into()),
        #[expect(clippy::cast_precision_loss, reason = "alphas are small")]
        Dtype::I64 => each(&bytes, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => each(&bytes, |b| i32::from_le_bytes(b).into()),
        Dtype::I16 => each(&bytes, |b| i16::from_le_bytes(b).into()),
        Dtype::I8 => each(&bytes, |b| i8::from_le_bytes(b).into()),
        _ => each(&bytes, |b| u8::from_le_bytes(b).into()),
    })
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let numbers = bytes.as_chunks::<N>().0.iter();
    numbers.map(|bytes| number(*bytes)).collect()
}

/// Looks at every number of a tensor.
fn read(file: &mut File, head: &Head, name: &str, path: &Path) -> Result<Numbers, LoraError> {
    let unreadable = || PackError::unreadable(path);
    let mut seen = Numbers::none_yet();
    let Some(info) = head.metadata.info(name) else {
        return Ok(seen);
    };
    let (start, end) = info.data_offsets;
    file.seek(SeekFrom::Start(head.data_at + start as u64))
        .map_err(unreadable())?;
    let mut left = end - start;
    let mut buffer = vec![0; READ_SIZE.min(left)];
    while left > 0 {
        let chunk = &mut buffer[..READ_SIZE.min(left)];
        file.read_exact(chunk).map_err(unreadable())?;
        left -= chunk.len();
        // Alphas are whole numbers at times. The chunk's size is a power of two, and so is a number's.
        if !seen.look(info.dtype, chunk) {
            return Err(LoraError::Unfit {
                path: path.to_owned(),
                reason: format!(
                    "{name} is in {:?}: save it as float32, float16 or bfloat16",
                    info.dtype
                ),
            });
        }
    }
    Ok(seen)
}
