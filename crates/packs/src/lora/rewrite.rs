//! A LoRA file in the one layout that engines are given: the authors' names behind `diffusion_model.`, and an alpha for
//! every layer of a block.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::Dtype;

use super::check::{What, numbers, parse};
use super::layers::Naming;
use super::{LoraError, Sizes, check_lora};
use crate::tensors::{NewTensor, header_of, read_head};
use crate::verify::READ_SIZE;
use crate::write::write;
use crate::{PackError, PackFile};

/// Of the new file.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Data,
}

enum Data {
    /// As it is in the old file.
    At(u64, u64),
    New(Vec<u8>),
}

/// Checks the file and writes it as `to`/`path`. `strength` multiplies the matrices; where the file says no alpha, the rank
/// counts as one. The same input makes the same bytes.
pub(crate) fn rewrite(
    from: &Path,
    sizes: &Sizes,
    strength: Option<f64>,
    to: &Path,
    path: &str,
    read: impl Fn(u64),
) -> Result<PackFile, LoraError> {
    if let Some(strength) = strength.filter(|strength| *strength <= 0.0 || !strength.is_finite()) {
        return Err(LoraError::Strength { strength });
    }
    check_lora(from, sizes, strength.is_some())?;
    let mut tensors = plan(from, sizes, strength.unwrap_or(1.0))?;
    // As the library writes it: the widest format first, so that every tensor is aligned.
    tensors.sort_by(|a, b| {
        let key = |tensor: &Tensor| std::cmp::Reverse(tensor.dtype.bitsize());
        (key(a), &a.name).cmp(&(key(b), &b.name))
    });
    let bytes = |tensor: &Tensor| match &tensor.data {
        Data::At(_, bytes) => *bytes,
        Data::New(bytes) => bytes.len() as u64,
    };
    let about = tensors.iter().map(|tensor| NewTensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        bytes: bytes(tensor),
    });
    let header = header_of(about).map_err(|source| LoraError::Unfit {
        path: from.to_owned(),
        reason: source.to_string(),
    })?;
    let mut file = File::open(from).map_err(PackError::unreadable(from))?;
    write(to, path.to_owned(), |out| {
        let target = to.join(path);
        let unwritable = || PackError::unwritable(&target);
        out.write_all(&header).map_err(unwritable())?;
        let mut buffer = vec![0; READ_SIZE];
        for tensor in &tensors {
            let (at, mut left) = match &tensor.data {
                Data::At(at, bytes) => (*at, *bytes),
                Data::New(bytes) => {
                    out.write_all(bytes).map_err(unwritable())?;
                    continue;
                }
            };
            file.seek(SeekFrom::Start(at))
                .map_err(PackError::unreadable(from))?;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(READ_SIZE).min(READ_SIZE);
                let chunk = &mut buffer[..most];
                file.read_exact(chunk)
                    .map_err(PackError::unreadable(from))?;
                out.write_all(chunk).map_err(unwritable())?;
                left -= most as u64;
                read(most as u64);
            }
        }
        Ok::<_, LoraError>(())
    })
}

fn plan(from: &Path, sizes: &Sizes, strength: f64) -> Result<Vec<Tensor>, LoraError> {
    let unreadable = || PackError::unreadable(from);
    let head = read_head(from)?;
    let mut file = File::open(from).map_err(unreadable())?;
    let mut names = head.metadata.offset_keys();
    names.sort();
    let keys = names.iter().filter_map(|name| {
        let (naming, rest) = Naming::of(name);
        Some((name, parse(naming, rest)?))
    });
    let keys: Vec<_> = keys.collect();
    let mut tensors = Vec::new();
    for (name, key) in &keys {
        let Some(info) = head.metadata.info(name) else {
            continue;
        };
        let layer = &key.layer;
        let (start, end) = info.data_offsets;
        let tensor = |what: &str, data| Tensor {
            name: format!("diffusion_model.{layer}.{what}"),
            dtype: info.dtype,
            shape: info.shape.clone(),
            data,
        };
        let as_it_is = || Data::At(head.data_at + start as u64, (end - start) as u64);
        match key.what {
            What::Alpha => {}
            // Zeros without a place: what has a place was checked.
            What::Change(suffix) if sizes.change(layer, suffix).is_none() => {}
            What::Change(suffix) => tensors.push(tensor(suffix, as_it_is())),
            What::Down => tensors.push(tensor("lora_down.weight", as_it_is())),
            What::Up => {
                let rank = info.shape[1] as f64;
                let alpha = keys
                    .iter()
                    .find(|(_, other)| other.what == What::Alpha && other.layer == *layer);
                let alpha = match alpha {
                    Some((name, _)) => numbers(&mut file, &head, name).map_err(unreadable())?[0],
                    None => rank,
                };
                let alpha = alpha * strength;
                // diffusers' converter never ends where the stored alpha is 0.
                if narrow(alpha) <= 0.0 || !narrow(alpha).is_finite() {
                    return Err(LoraError::Unfit {
                        path: from.to_owned(),
                        reason: format!(
                            "the alpha of {layer} times the strength is {alpha:e}, which float32 cannot hold"
                        ),
                    });
                }
                if layer.starts_with("blocks.") {
                    tensors.push(tensor("lora_up.weight", as_it_is()));
                    tensors.push(Tensor {
                        name: format!("diffusion_model.{layer}.alpha"),
                        dtype: Dtype::F32,
                        shape: Vec::new(),
                        data: Data::New(narrow(alpha).to_le_bytes().to_vec()),
                    });
                } else {
                    // diffusers' converter knows no alpha of these layers.
                    let scaled = numbers(&mut file, &head, name).map_err(unreadable())?;
                    let scaled = scaled
                        .iter()
                        .flat_map(|one| narrow(one * alpha / rank).to_le_bytes());
                    tensors.push(Tensor {
                        dtype: Dtype::F32,
                        ..tensor("lora_up.weight", Data::New(scaled.collect()))
                    });
                }
            }
        }
    }
    Ok(tensors)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "matrices are counted in float32"
)]
fn narrow(number: f64) -> f32 {
    number as f32
}
