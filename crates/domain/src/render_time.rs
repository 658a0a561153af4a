//! Estimates render times from the number of operations and the measured speed of each GPU.
//!
//! Nothing here knows text encoding, loading and uploading: seconds beside minutes, and hidden behind the render before.
//! What is wrong for one's own machines, [`Corrections`] learn from finished tasks.

mod correction;
mod gpu;
mod memory;

pub use correction::{Corrections, LEAST_RUNS, Run};
pub use gpu::Gpu;
pub(crate) use memory::needs;
pub use memory::{Weights, load_seconds, needed_gb};

use crate::model::Model;
use crate::quality::Quality;
use crate::task::TaskSpec;

const TERA: f64 = 1e12;
/// The text that every block attends to: umT5's whole length, whatever the prompt's.
const TEXT_TOKENS: f64 = 512.0;
/// Decoding, in teraflops at a card's linear rate for a million pixels: 14.47 s for 1280x704, 121 frames on an H200
/// (heygen-com/auto-model-optim, plain decoder), 277 TFLOPS. Of the A14B models' VAE no figure is known: taken as alike.
const DECODE: f64 = 36.8;

/// What of a task decides how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    pub model: Model,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    pub steps: u32,
    /// With guidance each step is two forward passes.
    pub guided: bool,
}

/// One forward pass, in teraflops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassWork {
    pub linear: f64,
    pub attention: f64,
}

/// The transformer that a token goes through in one pass: of two experts it is one.
struct Shape {
    layers: f64,
    width: f64,
    feed_forward: f64,
}

impl Job {
    pub fn of(spec: &TaskSpec) -> Self {
        let high = spec.guidance_high_noise.unwrap_or_default();
        Self {
            model: spec.model,
            width: spec.width,
            height: spec.height,
            frames: spec.frames,
            steps: spec.steps,
            guided: spec.guidance.max(high) > 1.0,
        }
    }

    /// What a task of this size is that says nothing else.
    pub fn usual(model: Model, (width, height): (u32, u32)) -> Self {
        Self {
            model,
            width,
            height,
            frames: model.limits().max_frames,
            steps: Quality::Standard.recipe(model).steps,
            guided: true,
        }
    }

    /// The same in the model's smallest size.
    pub fn smallest_usual(model: Model) -> Self {
        let sizes = model.limits().sizes.iter().copied();
        let smallest = sizes.min_by_key(|(width, height)| width * height);
        Self::usual(model, smallest.unwrap_or_default())
    }

    pub fn tokens(&self) -> u32 {
        let [_, times, rows, columns] = self.model.latents(self.width, self.height, self.frames);
        // A patch of 2x2 latents.
        times * (rows / 2) * (columns / 2)
    }

    pub fn pass(&self) -> PassWork {
        let Shape {
            layers,
            width: d,
            feed_forward: ff,
            ..
        } = shape(self.model);
        let n = f64::from(self.tokens());
        PassWork {
            linear: layers * 2.0 * n * (6.0 * d * d + 2.0 * d * ff) / TERA,
            attention: layers * (4.0 * n * n * d + 4.0 * n * TEXT_TOKENS * d) / TERA,
        }
    }

    pub fn step_seconds(&self, gpu: Gpu) -> f64 {
        let (work, rates) = (self.pass(), gpu.rates());
        let passes = if self.guided { 2.0 } else { 1.0 };
        passes * (work.linear / rates.linear + work.attention / rates.attention)
    }

    pub fn decode_seconds(&self, gpu: Gpu) -> f64 {
        let pixels = f64::from(self.width) * f64::from(self.height) * f64::from(self.frames);
        pixels / 1e6 * DECODE / gpu.rates().linear
    }

    /// From `first` step to the video.
    pub fn seconds_from(&self, first: u32, gpu: Gpu) -> f64 {
        let steps = f64::from(self.steps.saturating_sub(first));
        steps * self.step_seconds(gpu) + self.decode_seconds(gpu)
    }

    pub fn seconds(&self, gpu: Gpu) -> f64 {
        self.seconds_from(0, gpu)
    }
}

/// Wan-Video/Wan2.2, `wan/configs/wan_ti2v_5B.py` and `wan_t2v_A14B.py`.
fn shape(model: Model) -> Shape {
    match model {
        Model::Ti2v5b => Shape {
            layers: 30.0,
            width: 3_072.0,
            feed_forward: 14_336.0,
        },
        Model::T2vA14b | Model::I2vA14b => Shape {
            layers: 40.0,
            width: 5_120.0,
            feed_forward: 13_824.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: (u32, u32) = (832, 480);
    const LARGE: (u32, u32) = (1280, 720);

    fn job(model: Model, size: (u32, u32)) -> Job {
        Job::usual(model, size)
    }

    #[test]
    fn tokens_and_arithmetic_are_those_of_the_published_shapes() {
        let cases = [
            (Model::Ti2v5b, (1280, 704), 27_280, 0.52),
            (Model::T2vA14b, SMALL, 32_760, 1.67),
            (Model::I2vA14b, LARGE, 75_600, 6.52),
        ];
        for (model, size, tokens, petaflops) in cases {
            let job = job(model, size);
            assert_eq!(job.tokens(), tokens);
            let PassWork { linear, attention } = job.pass();
            let said = (linear + attention) / 1_000.0;
            assert!((said - petaflops).abs() < 0.01, "{model}: {said}");
        }
    }

    /// Wan-Video/Wan2.2, `assets/comp_effic.png`, one card. The rates of these cards come from the T2V rows: there the
    /// table holds the arithmetic; the I2V rows and the step of another program were not looked at for it.
    #[test]
    fn published_times_are_met() {
        let (t2v, i2v) = (Model::T2vA14b, Model::I2vA14b);
        let cases = [
            (Model::Ti2v5b, (1280, 704), Gpu::Rtx4090, 534.7, 0.01),
            (t2v, SMALL, Gpu::A100, 785.7, 0.01),
            (t2v, LARGE, Gpu::A100, 2_735.7, 0.01),
            (t2v, SMALL, Gpu::H100, 326.9, 0.01),
            (t2v, LARGE, Gpu::H100, 1_041.5, 0.01),
            (i2v, SMALL, Gpu::H100, 326.9, 0.03),
            (i2v, LARGE, Gpu::A100, 2_735.7, 0.03),
        ];
        for (model, size, gpu, published, tolerance) in cases {
            let said = job(model, size).seconds(gpu);
            let off = (said / published - 1.0).abs();
            assert!(
                off <= tolerance,
                "{model} on {gpu:?}: {said} for {published}"
            );
        }
        // FastWan's blog: the 5B's transformer took 157.2 s on an H200 before it was distilled.
        let fast = job(Model::Ti2v5b, (1280, 704));
        let steps = fast.seconds(Gpu::H200) - fast.decode_seconds(Gpu::H200);
        assert!((steps / 157.2 - 1.0).abs() < 0.25, "{steps}");
    }

    #[test]
    fn four_steps_without_guidance_are_a_twentieth_of_the_passes() {
        let whole = job(Model::T2vA14b, SMALL);
        let fast = Job {
            steps: 4,
            guided: false,
            ..whole
        };
        let passes = |job: Job| job.seconds(Gpu::H100) - job.decode_seconds(Gpu::H100);
        assert!((passes(whole) / passes(fast) - 20.0).abs() < 1e-9);
        let rest = whole.seconds_from(30, Gpu::H100);
        assert!(rest < whole.seconds(Gpu::H100) / 3.0);
        assert_eq!(
            whole.seconds_from(99, Gpu::H100),
            whole.decode_seconds(Gpu::H100)
        );
    }
}
