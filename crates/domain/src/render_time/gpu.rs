//! The cards that can be rented, and how fast they are.

use serde::{Deserialize, Serialize};

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

/// Teraflops that come out of a card, all that lies between two multiplications included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub linear: f64,
    pub attention: f64,
}

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
