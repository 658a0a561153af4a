//! What fits into the memory of a card, and how long it takes to load.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Gpu, Job};
use crate::model::Model;

/// How a transformer's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Half the memory, and not the same picture.
    Float8,
    Bfloat16,
}

/// CUDA's own context and the workspaces of its libraries.
const FIXED_GB: f64 = 0.54;
/// umT5's encoder, in bfloat16.
const TEXT_ENCODER_GB: f64 = 11.4;
/// What a machine reads of its weights in a second, from S3 to its disk and from there to the card.
const LOAD_GB_A_SECOND: f64 = 0.3;

impl Gpu {
    /// The best way to keep the weights with which this job fits beside nothing else; the text encoder is gone by then,
    /// and of two experts one is there. None: it does not fit.
    pub fn weights(self, job: &Job) -> Option<Weights> {
        let fits = |weights: &Weights| needed_gb(job, *weights) <= self.memory_gb();
        [Weights::Bfloat16, Weights::Float8].into_iter().find(fits)
    }
}

/// GPU memory that a job takes at its peak: one expert, the activations, the VAE. As the Wan engine reckons
/// (`spotreel_wan/profile.py`), which refuses by it.
pub fn needed_gb(job: &Job, weights: Weights) -> f64 {
    let (activations_gb_a_token, vae) = match job.model {
        // Each token has a time of its own.
        Model::Ti2v5b => (0.363e-3, 2.82),
        Model::T2vA14b | Model::I2vA14b => (0.42e-3, 0.51),
    };
    let activations = f64::from(job.tokens()) * activations_gb_a_token;
    weights_gb(job.model, weights) + activations + vae + FIXED_GB
}

/// From an empty disk to a model that renders: its text encoder and all its experts.
pub fn load_seconds(model: Model) -> f64 {
    let experts = match model {
        Model::Ti2v5b => 1.0,
        Model::T2vA14b | Model::I2vA14b => 2.0,
    };
    (TEXT_ENCODER_GB + experts * weights_gb(model, Weights::Bfloat16)) / LOAD_GB_A_SECOND
}

/// 5.00 and 14.29 billion parameters an expert.
fn weights_gb(model: Model, weights: Weights) -> f64 {
    let whole = match model {
        Model::Ti2v5b => 10.0,
        Model::T2vA14b | Model::I2vA14b => 28.6,
    };
    match weights {
        Weights::Bfloat16 => whole,
        Weights::Float8 => whole / 2.0,
    }
}

/// How much memory a job needs, and which card has it.
pub(crate) fn needs(job: &Job) -> String {
    let Job {
        model,
        width,
        height,
        frames,
        ..
    } = job;
    let gigabytes = needed_gb(job, Weights::Float8);
    let rentable = |gpu: &Gpu| gpu.weights(job).is_some() && gpu.instance_type().is_some();
    let least = Gpu::ALL.into_iter().find(rentable);
    let has = least.map_or_else(
        || "no type with one card has that".to_owned(),
        |gpu| {
            let kind = gpu.instance_type().unwrap_or_default();
            format!("{kind} has it ({}, {} GB)", gpu.name(), gpu.memory_gb())
        },
    );
    format!(
        "{model} with {width}x{height} and {frames} frames needs {gigabytes:.1} GB of GPU memory, {has}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_where() {
        let five = Job::usual(Model::Ti2v5b, (1280, 704));
        let small = Job::usual(Model::T2vA14b, (832, 480));
        let large = Job::usual(Model::I2vA14b, (1280, 720));
        let (half, whole) = (Some(Weights::Float8), Some(Weights::Bfloat16));
        let cases = [
            (Gpu::A10g, [whole, None, None]),
            (Gpu::L4, [whole, None, None]),
            (Gpu::A100Small, [whole, half, None]),
            (Gpu::L40s, [whole, whole, half]),
            (Gpu::A100, [whole; 3]),
            (Gpu::H200, [whole; 3]),
        ];
        for (gpu, wanted) in cases {
            let said = [five, small, large].map(|job| gpu.weights(&job));
            assert_eq!(said, wanted, "{gpu:?}");
        }
    }

    #[test]
    fn a_24_gb_card_holds_short_videos_of_the_larger_models() {
        let frames = |frames| Job {
            frames,
            ..Job::usual(Model::T2vA14b, (832, 480))
        };
        assert_eq!(Gpu::L4.weights(&frames(45)), Some(Weights::Float8));
        // The engine refuses it there: 24.5 GB.
        assert_eq!(Gpu::L4.weights(&frames(53)), None);
    }

    /// `assets/comp_effic.png`, in GB.
    #[test]
    fn published_peaks_are_met() {
        let cases = [
            (Model::Ti2v5b, (1280, 704), 22.9),
            (Model::T2vA14b, (832, 480), 41.3),
            (Model::T2vA14b, (1280, 720), 59.8),
        ];
        for (model, size, peak) in cases {
            let said = needed_gb(&Job::usual(model, size), Weights::Bfloat16);
            assert!((said / peak - 1.0).abs() < 0.07, "{model}: {said}");
        }
    }
}
