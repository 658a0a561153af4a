//! The cards that can be rented: how fast they are, and what fits into them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Job;
use crate::model::Model;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpu {
    Rtx4090,
    A10g,
    L4,
    L40s,
    /// With 40 GB.
    A100Small,
    /// With 80 GB.
    A100,
    H100,
    H200,
}

/// How a transformer's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Half the memory, and not the same picture.
    Float8,
    Bfloat16,
}

/// Teraflops that come out of a card, all that lies between two multiplications included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub linear: f64,
    pub attention: f64,
}

/// CUDA's own context and the workspaces of its libraries.
const FIXED_GB: f64 = 0.54;
/// umT5's encoder, in bfloat16.
const TEXT_ENCODER_GB: f64 = 11.4;
/// What a machine reads of its weights in a second, from S3 to its disk and from there to the card.
const LOAD_GB_A_SECOND: f64 = 0.3;

impl Gpu {
    /// The smallest first, and of one size those that EC2 rents.
    pub const ALL: [Self; 8] = [
        Self::A10g,
        Self::L4,
        Self::Rtx4090,
        Self::A100Small,
        Self::L40s,
        Self::A100,
        Self::H100,
        Self::H200,
    ];

    /// As its maker calls it, shortened.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtx4090 => "RTX 4090",
            Self::A10g => "A10G",
            Self::L4 => "L4",
            Self::L40s => "L40S",
            Self::A100Small | Self::A100 => "A100",
            Self::H100 => "H100",
            Self::H200 => "H200",
        }
    }

    /// By what the driver calls it: `NVIDIA A100-SXM4-80GB`, `NVIDIA L40S`.
    pub fn of_device(name: &str) -> Option<Self> {
        let words: Vec<_> = name.split([' ', '-']).collect();
        let of_name = |gpu: &Self| {
            let own = gpu.name().split(' ').all(|word| words.contains(&word));
            own && (*gpu != Self::A100Small || words.contains(&"40GB"))
        };
        Self::ALL.into_iter().find(of_name)
    }

    /// The smallest GPU with at least this number of bytes.
    pub fn smallest_with(bytes: u64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
        let gigabytes = bytes as f64 / 1e9;
        Self::ALL
            .into_iter()
            .find(|gpu| gpu.memory_gb() >= gigabytes)
    }

    /// Of an EC2 instance type, by its family. None: it has no card that is known here.
    pub fn of_instance_type(name: &str) -> Option<Self> {
        match name.split_once('.')?.0 {
            "g5" => Some(Self::A10g),
            "g6" | "gr6" => Some(Self::L4),
            "g6e" => Some(Self::L40s),
            "p4d" => Some(Self::A100Small),
            "p4de" => Some(Self::A100),
            "p5" => Some(Self::H100),
            "p5e" | "p5en" => Some(Self::H200),
            _ => None,
        }
    }

    /// The smallest EC2 instance type with one of these. None: EC2 rents them by the eight, or not at all.
    pub fn instance_type(self) -> Option<&'static str> {
        match self {
            Self::A10g => Some("g5.xlarge"),
            Self::L4 => Some("g6.xlarge"),
            Self::L40s => Some("g6e.xlarge"),
            Self::H100 => Some("p5.4xlarge"),
            Self::Rtx4090 | Self::A100Small | Self::A100 | Self::H200 => None,
        }
    }

    pub fn memory_gb(self) -> f64 {
        match self {
            Self::Rtx4090 | Self::A10g | Self::L4 => 24.0,
            Self::A100Small => 40.0,
            Self::L40s => 48.0,
            Self::A100 | Self::H100 => 80.0,
            Self::H200 => 141.0,
        }
    }

    pub(super) fn rates(self) -> Rates {
        let flat = |rate| Rates {
            linear: rate,
            attention: rate,
        };
        match self {
            // Solved from both sizes of T2V-A14B in Wan-Video/Wan2.2, `assets/comp_effic.png`: 326.9 and 1,041.5 s,
            // 785.7 and 2,735.7 s. That the H100's attention comes out at what FlashAttention-3 publishes is no accident.
            Self::H100 => Rates {
                linear: 277.3,
                attention: 739.3,
            },
            Self::A100 | Self::A100Small => Rates {
                linear: 134.4,
                attention: 230.1,
            },
            // The same chip with more memory.
            Self::H200 => Self::H100.rates(),
            // One row of the table, so one rate: 534.7 s for the 5B.
            Self::Rtx4090 => flat(104.1),
            // Nobody has published Wan2.2 on these. A share of their peaks as on the cards above, 40 % up or down.
            Self::A10g => flat(40.0),
            Self::L4 => flat(45.0),
            Self::L40s => flat(170.0),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_all() {
        // serde names the variants to whoever sends another.
        let error = serde_json::from_str::<Gpu>("\"\"").unwrap_err().to_string();
        assert_eq!(error.split('`').skip(3).step_by(2).count(), Gpu::ALL.len());
    }

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

    #[test]
    fn devices_are_known_by_their_whole_name() {
        for (name, gpu) in [
            ("NVIDIA A10G", Some(Gpu::A10g)),
            ("NVIDIA L4", Some(Gpu::L4)),
            ("NVIDIA L40S", Some(Gpu::L40s)),
            ("NVIDIA A100-SXM4-40GB", Some(Gpu::A100Small)),
            ("NVIDIA A100-SXM4-80GB", Some(Gpu::A100)),
            ("NVIDIA A100 80GB PCIe", Some(Gpu::A100)),
            ("NVIDIA H100 80GB HBM3", Some(Gpu::H100)),
            ("NVIDIA H200", Some(Gpu::H200)),
            ("NVIDIA GeForce RTX 4090", Some(Gpu::Rtx4090)),
            ("NVIDIA A10", None),
            ("cpu", None),
            ("", None),
        ] {
            assert_eq!(Gpu::of_device(name), gpu, "{name}");
        }
    }

    #[test]
    fn the_smallest_with_enough_is_named() {
        let smallest = |gigabytes: u64| Gpu::smallest_with(gigabytes * 1_000_000_000);
        assert_eq!(smallest(1), Some(Gpu::A10g));
        assert_eq!(smallest(25), Some(Gpu::A100Small));
        assert_eq!(smallest(41), Some(Gpu::L40s));
        assert_eq!(smallest(80), Some(Gpu::A100));
        assert_eq!(smallest(90), Some(Gpu::H200));
        assert_eq!(smallest(142), None);
        assert!(Gpu::ALL.is_sorted_by_key(|gpu| gpu.memory_gb()));
    }

    #[test]
    fn types_are_known_by_their_family() {
        let cases = [
            ("g5.xlarge", Some(Gpu::A10g)),
            ("g6.2xlarge", Some(Gpu::L4)),
            ("g6e.xlarge", Some(Gpu::L40s)),
            ("p4d.24xlarge", Some(Gpu::A100Small)),
            ("p5.4xlarge", Some(Gpu::H100)),
            ("p5en.48xlarge", Some(Gpu::H200)),
            ("m7i.large", None),
            ("g5", None),
            ("", None),
        ];
        for (name, gpu) in cases {
            assert_eq!(Gpu::of_instance_type(name), gpu, "{name}");
        }
    }
}
