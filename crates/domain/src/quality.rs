//! Quality tiers: one word for a complete recipe of steps, guidance and shift.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Model, STEPS};

/// How much is computed for a video. Nothing said is the same recipe as [`Quality::Standard`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Four steps without guidance. It needs distilled weights: with the others four steps give noise.
    Fast,
    /// Wan2.2's own parameters.
    Standard,
    /// Wan2.2's own, with the most steps that are admitted.
    Best,
}

/// What a tier stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    pub steps: u32,
    /// Of the low-noise expert, and of the high-noise one where there are two.
    pub guidance: (f64, Option<f64>),
    pub shift: f64,
}

/// The Lightning weights of lightx2v for Wan2.2 were distilled for timesteps 1000, 937, 833 and 625: four steps at
/// shift 5. Guidance is baked into them; 1 switches it off, and with it half of the forward passes.
const FAST_STEPS: u32 = 4;
const FAST_SHIFT: f64 = 5.0;
const NO_GUIDANCE: f64 = 1.0;

impl Quality {
    pub const ALL: [Self; 3] = [Self::Fast, Self::Standard, Self::Best];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Standard => "standard",
            Self::Best => "best",
        }
    }

    pub fn recipe(self, model: Model) -> Recipe {
        let limits = model.limits();
        let own = Recipe {
            steps: limits.default_steps,
            guidance: limits.default_guidance,
            shift: limits.default_shift,
        };
        match self {
            Self::Fast => Recipe {
                steps: FAST_STEPS,
                guidance: (NO_GUIDANCE, own.guidance.1.map(|_| NO_GUIDANCE)),
                shift: FAST_SHIFT,
            },
            Self::Standard => own,
            Self::Best => Recipe {
                steps: *STEPS.end(),
                ..own
            },
        }
    }

    /// Whether a pack needs weights that Wan2.2's own release does not have.
    pub fn needs_distilled_weights(self) -> bool {
        self == Self::Fast
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
