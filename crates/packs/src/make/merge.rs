//! The shards of a component as one safetensors file.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::Dtype;
use serde::Deserialize;

use crate::numbers::Numbers;
use crate::tensors::{Head, NewTensor, header_of, read_head};
use crate::verify::READ_SIZE;
use crate::write::write;
use crate::{PackError, PackFile};

/// Parts of these names stay float32: diffusers counts with them in float32 also where the rest is bfloat16
/// (`WanTransformer3DModel._keep_in_fp32_modules`). They are small.
const KEPT: [&str; 6] = [
    "rope",
    "time_embedder",
    "scale_shift_table",
    "norm1",
    "norm2",
    "norm3",
];

#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error(
        "{} holds neither {file} nor {file}.index.json: only safetensors are packed", dir.display()
    )]
    NoWeights { dir: PathBuf, file: &'static str },
    #[error("{} is not an index of shards", path.display())]
    BadShardIndex {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} names {shard:?}, which does not exist beside it", path.display())]
    BadShardName { path: PathBuf, shard: String },
    #[error("{} has no tensor {tensor}, although the index of the shards names it", path.display())]
    NoTensor { path: PathBuf, tensor: String },
    #[error("{} cannot take the place of the model's own weights: {reason}", dir.display())]
    Unfit { dir: PathBuf, reason: String },
    #[error("{} cannot be merged", path.display())]
    Layout {
        path: PathBuf,
        source: safetensors::SafeTensorError,
    },
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// A file of shards beside each other.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// One tensor: where it is, and how it will be.
struct Source {
    name: String,
    shard: usize,
    at: u64,
    bytes: u64,
    shape: Vec<usize>,
    dtype: Dtype,
    halved: bool,
}

impl Source {
    fn new_tensor(&self) -> NewTensor {
        NewTensor {
            name: self.name.clone(),
            dtype: self.new_dtype(),
            shape: self.shape.clone(),
            bytes: if self.halved {
                self.bytes / 2
            } else {
                self.bytes
            },
        }
    }

    fn new_dtype(&self) -> Dtype {
        match self.halved {
            true => Dtype::BF16,
            false => self.dtype,
        }
    }
}

/// A component's weights, and what becomes of them.
pub(super) struct Part<'a> {
    /// The component's own directory.
    pub from: PathBuf,
    /// The name of the weights, which shards begin with as well.
    pub weights: &'static str,
    /// The file in the pack.
    pub path: String,
    pub halve: bool,
    /// Weights of the pack in whose place these are loaded: they have the same tensors, and are looked at for NaN.
    pub in_place_of: Option<&'a Path>,
}

pub(super) fn merge(part: Part<'_>, to: &Path, read: impl Fn(u64)) -> Result<PackFile, MergeError> {
    let Part {
        from: dir,
        weights,
        path,
        halve,
        in_place_of,
    } = part;
    let unfit = |reason: String| MergeError::Unfit {
        dir: dir.clone(),
        reason,
    };
    let (shards, mut sources) = find(&dir, weights)?;
    if let Some(ours) = in_place_of {
        check_same(&sources, &read_head(ours)?).map_err(unfit)?;
    }
    for source in &mut sources {
        let kept = source.name.split('.').any(|part| KEPT.contains(&part));
        source.halved = halve && !kept && source.dtype == Dtype::F32;
    }
    // As the library writes it: the widest format first, so that every tensor is aligned.
    sources.sort_by(|a, b| {
        let key = |source: &Source| Reverse(source.new_dtype().bitsize());
        (key(a), &a.name).cmp(&(key(b), &b.name))
    });
    let header =
        header_of(sources.iter().map(Source::new_tensor)).map_err(|source| MergeError::Layout {
            path: dir.join(weights),
            source,
        })?;
    write(to, path.clone(), |out| {
        let target = to.join(&path);
        out.write_all(&header)
            .map_err(PackError::unwritable(&target))?;
        let open: Result<Vec<_>, _> = shards.iter().map(open).collect();
        let mut open = open?;
        for source in &sources {
            let (path, file) = &mut open[source.shard];
            let unreadable = || PackError::unreadable(path.as_path());
            file.seek(SeekFrom::Start(source.at))
                .map_err(unreadable())?;
            let mut left = source.bytes;
            let mut buffer = vec![0; READ_SIZE];
            let mut seen = Numbers::none_yet();
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(READ_SIZE).min(READ_SIZE);
                let chunk = &mut buffer[..most];
                file.read_exact(chunk).map_err(unreadable())?;
                left -= chunk.len() as u64;
                read(chunk.len() as u64);
                let halves;
                let new = match source.halved {
                    true => {
                        halves = halved(chunk);
                        &halves[..]
                    }
                    false => &*chunk,
                };
                if in_place_of.is_some() {
                    // As it will be: what float32 holds may be too large for bfloat16.
                    let (name, format) = (&source.name, source.new_dtype());
                    if !seen.look(format, new) {
                        return Err(unfit(format!(
                            "{name} is in {format:?}: save it as float32, float16 or bfloat16"
                        )));
                    }
                    if !seen.finite {
                        return Err(unfit(format!("{name} holds NaN or infinite numbers")));
                    }
                }
                out.write_all(new).map_err(PackError::unwritable(&target))?;
            }
        }
        Ok(())
    })
}

/// Whether they are the tensors of `ours`, in the same shapes.
fn check_same(sources: &[Source], ours: &Head) -> Result<(), String> {
    for source in sources {
        let name = &source.name;
        match ours.metadata.info(name) {
            None => return Err(format!("{name} has no place")),
            Some(info) if info.shape != source.shape => {
                let (found, wanted) = (&source.shape, &info.shape);
                return Err(format!("{name} has the shape {found:?}, not {wanted:?}"));
            }
            Some(_) => {}
        }
    }
    let found: HashSet<_> = sources.iter().map(|source| &source.name).collect();
    let missing = ours.metadata.offset_keys();
    match missing.into_iter().find(|name| !found.contains(name)) {
        Some(name) => Err(format!("{name} is missing")),
        None => Ok(()),
    }
}

fn open(shard: &PathBuf) -> Result<(&PathBuf, File), PackError> {
    let file = File::open(shard).map_err(PackError::unreadable(shard))?;
    Ok((shard, file))
}

/// Little-endian float32 as bfloat16, rounded to nearest, ties to even.
fn halved(chunk: &[u8]) -> Vec<u8> {
    let (floats, _) = chunk.as_chunks::<4>(); // chunks are multiples of four bytes, as float32 tensors are
    let half = |bytes: &[u8; 4]| bf16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes();
    floats.iter().flat_map(half).collect()
}

/// The tensors of one file, or of those that its index names.
fn find(dir: &Path, weights: &'static str) -> Result<(Vec<PathBuf>, Vec<Source>), MergeError> {
    let whole = dir.join(weights);
    if whole.is_file() {
        let head = read_head(&whole)?;
        let names = head.metadata.offset_keys();
        let sources = names.into_iter().filter_map(|name| source(&head, 0, name));
        return Ok((vec![whole], sources.collect()));
    }
    let path = dir.join(format!("{weights}.index.json"));
    let Ok(text) = fs::read(&path) else {
        return Err(MergeError::NoWeights {
            dir: dir.to_owned(),
            file: weights,
        });
    };
    let index: ShardIndex = match serde_json::from_slice(&text) {
        Ok(index) => index,
        Err(source) => return Err(MergeError::BadShardIndex { path, source }),
    };
    let mut shards: Vec<(PathBuf, Head)> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut sources = Vec::new();
    for (tensor, shard) in &index.weight_map {
        let at = match known.get(shard.as_str()) {
            Some(at) => *at,
            None => {
                if shard.contains(['/', '\\']) || shard == ".." {
                    let shard = shard.clone();
                    return Err(MergeError::BadShardName { path, shard });
                }
                let file = dir.join(shard);
                let head = read_head(&file)?;
                shards.push((file, head));
                known.insert(shard, shards.len() - 1);
                shards.len() - 1
            }
        };
        let (file, head) = &shards[at];
        let found = source(head, at, tensor.clone()).ok_or_else(|| MergeError::NoTensor {
            path: file.clone(),
            tensor: tensor.clone(),
        });
        sources.push(found?);
    }
    Ok((shards.into_iter().map(|(path, _)| path).collect(), sources))
}

fn source(head: &Head, shard: usize, name: String) -> Option<Source> {
    let info = head.metadata.info(&name)?;
    let (start, end) = info.data_offsets;
    Some(Source {
        shard,
        at: head.data_at + start as u64,
        bytes: (end - start) as u64,
        shape: info.shape.clone(),
        dtype: info.dtype,
        halved: false,
        name,
    })
}
