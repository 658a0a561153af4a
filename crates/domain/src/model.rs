//! The three Wan2.2 models and what each of them can render.
//!
//! Figures: Wan-Video/Wan2.2, `wan/configs/*.py` and `generate.py` (sizes, frames, steps, shift, guidance).

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub enum Model {
    #[serde(rename = "ti2v-5B")]
    Ti2v5b,
    #[serde(rename = "t2v-A14B")]
    T2vA14b,
    #[serde(rename = "i2v-A14B")]
    I2vA14b,
}

/// Which of the two transformers of the A14B models: each denoises its part of the steps.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Expert {
    /// The first steps, where noise is high.
    High,
    Low,
}

/// Each model has one queue per priority; the number is the subject token.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
}

/// Where a task waits among those of its model: by priority, and within a priority in front, or behind the fronts of all owners where
/// its own owner had a few unfinished tasks already. Of a priority the front lane comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    pub priority: Priority,
    pub back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRule {
    Required,
    Optional,
    Refused,
}

/// What a model renders when nothing is said, and the most that it accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Width and height; the first is the default.
    pub sizes: &'static [(u32, u32)],
    pub max_frames: u32,
    pub fps: u32,
    pub default_steps: u32,
    pub default_shift: f64,
    /// Guidance of the low-noise expert, and of the high-noise one where there are two.
    pub default_guidance: (f64, Option<f64>),
    pub image: ImageRule,
}

/// A video has 4n+1 frames: the first is a latent of its own, the others come in fours.
pub const MIN_FRAMES: u32 = 5;
const FRAMES_A_LATENT: u32 = 4;
pub const STEPS: std::ops::RangeInclusive<u32> = 1..=60;
pub const GUIDANCE: std::ops::RangeInclusive<f64> = 1.0..=10.0;
pub const SHIFT: std::ops::RangeInclusive<f64> = 1.0..=20.0;
/// JSON numbers are doubles in most clients: a larger seed would come back as another one.
pub const MAX_SEED: u64 = (1 << 53) - 1;
pub const MAX_PROMPT_CHARS: usize = 2_000;

const A14B_SIZES: &[(u32, u32)] = &[(1280, 720), (720, 1280), (832, 480), (480, 832)];

impl Model {
    pub const ALL: [Self; 3] = [Self::Ti2v5b, Self::T2vA14b, Self::I2vA14b];

    /// Matches whole names only: "i2v" is a part of "ti2v-5B".
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ti2v5b => "ti2v-5B",
            Self::T2vA14b => "t2v-A14B",
            Self::I2vA14b => "i2v-A14B",
        }
    }

    pub fn limits(self) -> Limits {
        match self {
            Self::Ti2v5b => Limits {
                sizes: &[(1280, 704), (704, 1280)],
                max_frames: 121,
                fps: 24,
                default_steps: 50,
                default_shift: 5.0,
                default_guidance: (5.0, None),
                image: ImageRule::Optional,
            },
            Self::T2vA14b => Limits {
                sizes: A14B_SIZES,
                max_frames: 81,
                fps: 16,
                default_steps: 40,
                default_shift: 12.0,
                default_guidance: (3.0, Some(4.0)),
                image: ImageRule::Refused,
            },
            Self::I2vA14b => Limits {
                sizes: A14B_SIZES,
                max_frames: 81,
                fps: 16,
                default_steps: 40,
                default_shift: 5.0,
                default_guidance: (3.5, Some(3.5)),
                image: ImageRule::Required,
            },
        }
    }

    pub fn has_two_experts(self) -> bool {
        self.limits().default_guidance.1.is_some()
    }

    /// What a video of this size is computed as: channels, times, rows and columns of latents.
    pub fn latents(self, width: u32, height: u32, frames: u32) -> [u32; 4] {
        let (channels, pixels) = match self {
            Self::Ti2v5b => (48, 16),
            Self::T2vA14b | Self::I2vA14b => (16, 8),
        };
        let times = frames.saturating_sub(1) / FRAMES_A_LATENT + 1;
        [channels, times, height / pixels, width / pixels]
    }
}

impl Expert {
    pub const ALL: [Self; 2] = [Self::High, Self::Low];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|expert| expert.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Lane {
    pub const ALL: [Self; 4] = [
        Self::front(Priority::High),
        Self::back(Priority::High),
        Self::front(Priority::Normal),
        Self::back(Priority::Normal),
    ];

    pub const fn front(priority: Priority) -> Self {
        Self {
            priority,
            back: false,
        }
    }

    pub const fn back(priority: Priority) -> Self {
        Self {
            priority,
            back: true,
        }
    }

    /// The front lane has the token of its priority, which was all there was before there were lanes.
    pub fn as_token(self) -> &'static str {
        match (self.priority, self.back) {
            (priority, false) => priority.as_token(),
            (Priority::High, true) => "0b",
            (Priority::Normal, true) => "1b",
        }
    }
}

impl Priority {
    pub const ALL: [Self; 2] = [Self::High, Self::Normal];

    pub fn as_token(self) -> &'static str {
        match self {
            Self::High => "0",
            Self::Normal => "1",
        }
    }
}
