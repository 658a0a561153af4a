//! Flow matching with Euler steps, as the real models do it, towards a picture that is known beforehand.
//!
//! Only `+ - * /` on f32, which IEEE 754 makes the same everywhere; no libm, no fused operations.

use std::sync::Arc;

use crate::picture;
use crate::recipe::Recipe;

/// How much of the noise a prediction keeps. It makes the video depend on every step that led to it, so a resume
/// that loses state gives another file instead of passing by luck.
const GRAIN: f32 = 0.1;

/// State between two steps; all that a checkpoint has to hold.
#[derive(Clone)]
pub struct Latents {
    pub next_step: u32,
    pub values: Arc<Vec<f32>>,
}

/// The fixed part of a run.
pub struct Denoiser {
    target: Vec<f32>,
    /// One more than there are steps; ends with 0.
    sigmas: Vec<f32>,
}

impl Denoiser {
    pub fn new(recipe: &Recipe) -> Self {
        Self {
            target: picture::target(&recipe.key, recipe.shape),
            sigmas: sigmas(recipe.task.steps, recipe.task.shift),
        }
    }

    /// Step 0: noise alone.
    pub fn start(recipe: &Recipe) -> Latents {
        let mut random = picture::SplitMix::new(&recipe.key, b"noise");
        let values = (0..recipe.shape.volume()).map(|_| random.bell()).collect();
        Latents {
            next_step: 0,
            values: Arc::new(values),
        }
    }

    /// One Euler step along the velocity that the prediction of the clean picture implies.
    pub fn step(&self, latents: &Latents) -> Latents {
        let index = latents.next_step as usize;
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        let ratio = (next - sigma) / sigma;
        let values = latents
            .values
            .iter()
            .zip(&self.target)
            .map(|(x, target)| {
                let predicted = target + GRAIN * (x / (1.0 + x.abs()));
                x + ratio * (x - predicted)
            })
            .collect();
        Latents {
            next_step: latents.next_step + 1,
            values: Arc::new(values),
        }
    }
}

/// The shifted schedule of flow matching: more steps where it is noisy.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a sigma is a number from 0 to 1"
)]
fn sigmas(steps: u32, shift: f64) -> Vec<f32> {
    (0..=steps)
        .map(|i| {
            let s = f64::from(steps - i) / f64::from(steps);
            (shift * s / (1.0 + (shift - 1.0) * s)) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_falls_from_one_to_zero() {
        let sigmas = sigmas(4, 5.0);
        assert_eq!(sigmas[0], 1.0);
        assert_eq!(sigmas[4], 0.0);
        assert!(sigmas.is_sorted_by(|a, b| a > b));
    }
}
