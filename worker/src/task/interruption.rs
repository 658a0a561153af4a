//! The interruption policy: when the worker has to leave, a render is finished, or handed back with a checkpoint. Pure: time
//! and measurements are arguments.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use spotreel_domain::Model;
use spotreel_domain::task::TaskSpec;
use tokio::time::Instant;

use crate::machine::leave::By;

/// Time to decode, until this machine has measured its own: about that of an A10G for 81 frames at 480p.
const DECODE_UNMEASURED: Duration = Duration::from_secs(40);
/// The gate and the upload of a few megabytes from a cloud machine; until measured.
const UPLOAD_UNMEASURED: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterruptionPolicy {
    /// What is kept of a notice for the checkpoint, its upload and the handing back.
    #[serde(with = "humantime_serde")]
    pub margin: Duration,
    /// The measured remainder is taken times this: steps do not all last alike.
    pub safety: f64,
}

/// What a render still needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remainder {
    pub steps_left: u32,
    /// Steps done in this attempt: what a checkpoint would save.
    pub steps_done: u32,
    /// The longest of the last steps; none before the first is measured.
    pub step: Option<Duration>,
    /// Decoding, less what has passed of it.
    pub decode: Duration,
    pub upload: Duration,
    /// What the engine itself believes of its steps.
    pub by_engine: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptionPlan {
    GoOn,
    /// It will be done before this; if it is not, it is handed back after all.
    FinishBy(Instant),
    /// A checkpoint is asked for and waited for until then.
    CheckpointBy(Instant),
    /// There is nothing to save.
    HandBack,
}

impl Remainder {
    fn total(&self) -> Option<Duration> {
        let steps = match (self.steps_left, self.step) {
            (0, _) => Duration::ZERO,
            (left, Some(step)) => step * left,
            (_, None) => return None,
        };
        Some(steps + self.decode + self.upload)
    }
}

impl InterruptionPolicy {
    /// `patience`: how long a checkpoint is waited for when nothing but politeness presses.
    pub fn plan(
        &self,
        by: By,
        rest: &Remainder,
        patience: Duration,
        now: Instant,
    ) -> InterruptionPlan {
        let hand_back = |until| match rest.steps_done {
            0 => InterruptionPlan::HandBack,
            _ => InterruptionPlan::CheckpointBy(until),
        };
        match by {
            By::WhenDone => InterruptionPlan::GoOn,
            By::AtOnce => hand_back(now + patience),
            By::Signal(at) => match rest.by_engine.is_some_and(|rest| now + rest < at) {
                true => InterruptionPlan::FinishBy(at),
                false => hand_back(at),
            },
            By::Notice(at) => {
                let left = at.saturating_duration_since(now);
                let needs = rest.total().map(|total| total.mul_f64(self.safety));
                match needs.is_some_and(|needs| needs + self.margin <= left) {
                    true => InterruptionPlan::FinishBy(at - self.margin),
                    // Half of a short rest is for the upload.
                    false => hand_back(now + left.saturating_sub(self.margin.min(left / 2))),
                }
            }
        }
    }
}

/// How long this machine took to decode and to upload, by model and size of the video.
#[derive(Default)]
pub struct Measured(Mutex<HashMap<Model, Rates>>);

/// Seconds a pixel.
#[derive(Clone, Copy, Default)]
struct Rates {
    decode: Option<f64>,
    upload: Option<f64>,
}

impl Measured {
    pub fn decoded(&self, spec: &TaskSpec, took: Duration) {
        self.with(spec.model, |rates| {
            rates.decode = Some(took.as_secs_f64() / pixels(spec));
        });
    }

    pub fn uploaded(&self, spec: &TaskSpec, took: Duration) {
        self.with(spec.model, |rates| {
            rates.upload = Some(took.as_secs_f64() / pixels(spec));
        });
    }

    /// Decoding and upload of such a video.
    pub fn expect(&self, spec: &TaskSpec) -> (Duration, Duration) {
        let rates = self.with(spec.model, |rates| *rates);
        let of = |rate: Option<f64>, unmeasured| {
            let seconds = rate.map(|rate| rate * pixels(spec));
            seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .unwrap_or(unmeasured)
        };
        (
            of(rates.decode, DECODE_UNMEASURED),
            of(rates.upload, UPLOAD_UNMEASURED),
        )
    }

    fn with<T>(&self, model: Model, change: impl FnOnce(&mut Rates) -> T) -> T {
        let mut all = self.0.lock();
        change(all.entry(model).or_default())
    }
}

fn pixels(spec: &TaskSpec) -> f64 {
    f64::from(spec.width) * f64::from(spec.height) * f64::from(spec.frames.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: InterruptionPolicy = InterruptionPolicy {
        margin: Duration::from_secs(20),
        safety: 1.25,
    };

    fn rest(steps_left: u32, step: Option<u64>) -> Remainder {
        Remainder {
            steps_left,
            steps_done: 7,
            step: step.map(Duration::from_secs),
            decode: Duration::from_secs(10),
            upload: Duration::from_secs(6),
            by_engine: step.map(|step| Duration::from_secs(step) * steps_left),
        }
    }

    fn noticed(left: u64, rest: &Remainder) -> (InterruptionPlan, Instant) {
        let now = Instant::now();
        let by = By::Notice(now + Duration::from_secs(left));
        (RULE.plan(by, rest, Duration::from_secs(15), now), now)
    }

    #[test]
    fn a_remainder_that_fits_is_finished_and_no_other() {
        // (8 × 8 + 16) × 1.25 = 100, and 20 are kept.
        let (plan, now) = noticed(120, &rest(8, Some(8)));
        assert_eq!(
            plan,
            InterruptionPlan::FinishBy(now + Duration::from_secs(100))
        );
        let (plan, now) = noticed(119, &rest(8, Some(8)));
        assert_eq!(
            plan,
            InterruptionPlan::CheckpointBy(now + Duration::from_secs(99))
        );
        let (plan, _) = noticed(120, &rest(9, Some(8)));
        assert!(matches!(plan, InterruptionPlan::CheckpointBy(_)));
        // All steps are done: only decoding and upload are left.
        let (plan, _) = noticed(40, &rest(0, None));
        assert!(matches!(plan, InterruptionPlan::FinishBy(_)));
    }

    #[test]
    fn what_is_not_measured_does_not_fit() {
        let (plan, _) = noticed(120, &rest(1, None));
        assert!(matches!(plan, InterruptionPlan::CheckpointBy(_)));
    }

    #[test]
    fn without_a_step_there_is_nothing_to_save() {
        let fresh = Remainder {
            steps_done: 0,
            ..rest(30, None)
        };
        assert_eq!(noticed(120, &fresh).0, InterruptionPlan::HandBack);
        let now = Instant::now();
        assert_eq!(
            RULE.plan(By::AtOnce, &fresh, RULE.margin, now),
            InterruptionPlan::HandBack
        );
    }

    #[test]
    fn a_short_notice_leaves_half_of_itself_for_the_upload() {
        let (plan, now) = noticed(10, &rest(30, Some(8)));
        assert_eq!(
            plan,
            InterruptionPlan::CheckpointBy(now + Duration::from_secs(5))
        );
        let (plan, now) = noticed(0, &rest(30, Some(8)));
        assert_eq!(plan, InterruptionPlan::CheckpointBy(now));
    }

    #[test]
    fn a_signal_goes_by_the_engine_and_a_rebalance_waits() {
        let now = Instant::now();
        let at = now + Duration::from_secs(15);
        let patience = Duration::from_secs(15);
        let plan = |by, rest: &Remainder| RULE.plan(by, rest, patience, now);
        assert_eq!(
            plan(By::Signal(at), &rest(2, Some(7))),
            InterruptionPlan::FinishBy(at)
        );
        assert_eq!(
            plan(By::Signal(at), &rest(3, Some(7))),
            InterruptionPlan::CheckpointBy(at)
        );
        assert_eq!(
            plan(By::WhenDone, &rest(3000, Some(7))),
            InterruptionPlan::GoOn
        );
        assert_eq!(
            plan(By::AtOnce, &rest(1, Some(1))),
            InterruptionPlan::CheckpointBy(now + patience)
        );
    }
}
