//! A look into a checkpoint before an engine sees it: `wanckpt/1`, one safetensors file. The hash says that the bytes are
//! those which were written; this says that they are of this very render and lead on from where their key says.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;
use spotreel_domain::Model;
use spotreel_domain::task::TaskSpec;
use spotreel_packs::PackError;

use crate::engine::protocol::{CHECKPOINT_FORMAT, Phase};

/// umT5's whole length, whatever the prompt's.
const TEXT_TOKENS: usize = 512;
/// Earlier results that the solver goes on from, at most.
const SOLVER_ORDER: u32 = 2;
/// The solver that has such a history; a checkpoint that names none was made by it.
const UNIPC: &str = "unipc";

#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    File(#[from] PackError),
    #[error("{} is not a checkpoint of the format {CHECKPOINT_FORMAT}", path.display())]
    NoState { path: PathBuf },
    #[error("the state of the checkpoint cannot be read")]
    State(#[from] serde_json::Error),
    #[error("the checkpoint belongs to another render: its {what} is {found}, not {wanted}")]
    Other {
        what: &'static str,
        found: String,
        wanted: String,
    },
    #[error("the checkpoint's tensor {name} is {found}, not {wanted}")]
    Tensor {
        name: String,
        found: String,
        wanted: String,
    },
    #[error("the checkpoint has no {0}")]
    Lacks(&'static str),
}

#[derive(Deserialize)]
struct SavedState {
    model: String,
    total: u32,
    next_step: u32,
    phase: Phase,
    solver: Option<String>,
}

/// What is checked of the tensors one by one.
struct Tensors<'a> {
    metadata: &'a safetensors::tensor::Metadata,
    /// With the batch of one.
    latents: [usize; 5],
}

/// Refuses a file that no render of this task can go on from at `next_step`. Reads its header only; blocks.
pub fn inspect(path: &Path, spec: &TaskSpec, next_step: u32) -> Result<(), Unfit> {
    let head = spotreel_packs::read_head(path)?;
    let state = head.metadata.metadata().as_ref();
    let state = state.and_then(|texts| texts.get(CHECKPOINT_FORMAT));
    let state: SavedState = serde_json::from_str(state.ok_or_else(|| Unfit::NoState {
        path: path.to_owned(),
    })?)?;
    let decodes = next_step == spec.steps;
    same("model", state.model.as_str(), spec.model.as_str())?;
    same("number of steps", &state.total, &spec.steps)?;
    same("next step", &state.next_step, &next_step)?;
    let phase = match decodes {
        true => Phase::Decode,
        false => Phase::Denoise,
    };
    if state.phase != phase {
        return Err(Unfit::Other {
            what: "phase",
            found: format!("{:?}", state.phase),
            wanted: format!("{phase:?}"),
        });
    }
    let [channels, times, rows, columns] = spec
        .model
        .latents(spec.width, spec.height, spec.frames)
        .map(|extent| extent as usize);
    let tensors = Tensors {
        metadata: &head.metadata,
        latents: [1, channels, times, rows, columns],
    };
    tensors.check_each(spec.model)?;
    tensors.check_complete(&state, decodes)
}

fn same<T>(what: &'static str, found: &T, wanted: &T) -> Result<(), Unfit>
where
    T: PartialEq + ToString + ?Sized,
{
    match found == wanted {
        true => Ok(()),
        false => Err(Unfit::Other {
            what,
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
    }
}

impl Tensors<'_> {
    fn check_each(&self, model: Model) -> Result<(), Unfit> {
        for (name, tensor) in self.metadata.tensors() {
            let (shape, dtype) = (tensor.shape.as_slice(), tensor.dtype);
            let (fits, wanted) = match name.as_str() {
                "latents" | "last_sample" | "model_outputs.0" | "model_outputs.1" => (
                    shape == self.latents && dtype == Dtype::F32,
                    format!("F32 {:?}", self.latents),
                ),
                "embeds.prompt" | "embeds.negative" => (
                    matches!(shape, [1, TEXT_TOKENS, width] if *width > 0) && is_float(dtype),
                    format!("floats [1, {TEXT_TOKENS}, …]"),
                ),
                // The image as the model sees it: a mask or not, for one frame or for all.
                "condition" if model != Model::T2vA14b => (
                    self.is_condition(shape) && is_float(dtype),
                    format!("floats over {:?}", &self.latents[3..]),
                ),
                _ => (false, "a tensor of such a checkpoint".to_owned()),
            };
            if !fits {
                return Err(Unfit::Tensor {
                    name,
                    found: format!("{dtype:?} {shape:?}"),
                    wanted,
                });
            }
        }
        Ok(())
    }

    fn is_condition(&self, shape: &[usize]) -> bool {
        let [_, _, times, rows, columns] = self.latents;
        matches!(*shape, [1, channels, t, r, c] if channels > 0 && (1..=times).contains(&t) && (r, c) == (rows, columns))
    }

    /// Decoding needs the latents alone; a step needs the text, and what its solver remembers.
    fn check_complete(&self, state: &SavedState, decodes: bool) -> Result<(), Unfit> {
        let has = |name: &str| self.metadata.info(name).is_some();
        if !has("latents") {
            return Err(Unfit::Lacks("latents"));
        }
        if decodes {
            return Ok(());
        }
        if !has("embeds.prompt") {
            return Err(Unfit::Lacks("encoded prompt"));
        }
        if state.solver.as_deref().unwrap_or(UNIPC) != UNIPC {
            return Ok(());
        }
        if !has("embeds.negative") {
            return Err(Unfit::Lacks("encoded negative prompt"));
        }
        let outputs = ["model_outputs.0", "model_outputs.1"].map(has);
        let known: u32 = outputs.into_iter().map(u32::from).sum();
        if known != state.next_step.min(SOLVER_ORDER) || has("last_sample") != (state.next_step > 0)
        {
            return Err(Unfit::Lacks("whole history of its solver"));
        }
        Ok(())
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16)
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
