//! What finished tasks say of the arithmetic: one factor for each model and card.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Gpu, Job};
use crate::model::Model;
use crate::task::{State, Task};

/// Fewer finished tasks than this correct nothing: the first one of a machine has loaded the model.
pub const LEAST_RUNS: u32 = 3;

/// A task's last attempt, from its start to the video in S3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub job: Job,
    pub gpu: Gpu,
    /// Where its checkpoint let it begin.
    pub from_step: u32,
    pub seconds: f64,
}

impl Run {
    /// None: the task has no video, or its clock ran backwards.
    pub fn of(task: &Task, gpu: Gpu) -> Option<Self> {
        let (State::Succeeded { .. }, Some(last)) = (&task.state, task.attempts.last()) else {
            return None;
        };
        let seconds = last.ended_at?.duration_since(last.started_at).as_secs_f64();
        (seconds > 0.0).then(|| Self {
            job: Job::of(&task.spec),
            gpu,
            from_step: last.from_step,
            seconds,
        })
    }
}

/// Written down, it is a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Factor>", into = "Vec<Factor>")]
pub struct Corrections(BTreeMap<(Model, Gpu), f64>);

#[derive(Serialize, Deserialize)]
struct Factor {
    model: Model,
    gpu: Gpu,
    factor: f64,
}

impl From<Vec<Factor>> for Corrections {
    fn from(factors: Vec<Factor>) -> Self {
        let usable = |of: &Factor| of.factor.is_finite() && of.factor > 0.0;
        let factors = factors.into_iter().filter(usable);
        Self(factors.map(|of| ((of.model, of.gpu), of.factor)).collect())
    }
}

impl From<Corrections> for Vec<Factor> {
    fn from(Corrections(factors): Corrections) -> Self {
        let factors = factors.into_iter();
        factors
            .map(|((model, gpu), factor)| Factor { model, gpu, factor })
            .collect()
    }
}

impl Corrections {
    /// Least squares through nothing: a long run, of which loading is the smaller part, says more than a short one.
    pub fn learn<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Self {
        let mut sums: BTreeMap<(Model, Gpu), (u32, f64, f64)> = BTreeMap::new();
        for run in runs {
            let said = run.job.seconds_from(run.from_step, run.gpu);
            let (count, both, squares) = sums.entry((run.job.model, run.gpu)).or_default();
            *count += 1;
            *both += said * run.seconds;
            *squares += said * said;
        }
        let enough = sums
            .into_iter()
            .filter(|(_, (count, _, squares))| *count >= LEAST_RUNS && *squares > 0.0);
        Self(
            enough
                .map(|(key, (_, both, squares))| (key, both / squares))
                .collect(),
        )
    }

    /// These, and of `older` ones those of which these say nothing.
    #[must_use]
    pub fn over(mut self, older: &Self) -> Self {
        for (key, factor) in &older.0 {
            self.0.entry(*key).or_insert(*factor);
        }
        self
    }

    /// What a prediction is to be multiplied with; None: nothing is known.
    pub fn factor(&self, model: Model, gpu: Gpu) -> Option<f64> {
        self.0.get(&(model, gpu)).copied()
    }

    /// Corrected as far as anything is known.
    pub fn seconds(&self, job: &Job, gpu: Gpu) -> f64 {
        job.seconds(gpu) * self.factor(job.model, gpu).unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: u32, from_step: u32, factor: f64) -> Run {
        let job = Job {
            steps,
            ..Job::usual(Model::Ti2v5b, (1280, 704))
        };
        Run {
            job,
            gpu: Gpu::L4,
            from_step,
            seconds: job.seconds_from(from_step, Gpu::L4) * factor,
        }
    }

    #[test]
    fn a_factor_is_learnt_for_a_model_on_a_card_and_for_no_other() {
        let runs = [run(50, 0, 1.5), run(10, 0, 1.5), run(50, 40, 1.5)];
        assert_eq!(Corrections::learn(&runs[..2]), Corrections::default());
        let learnt = Corrections::learn(&runs);
        let factor = learnt.factor(Model::Ti2v5b, Gpu::L4).unwrap();
        assert!((factor - 1.5).abs() < 1e-9);
        assert_eq!(learnt.factor(Model::Ti2v5b, Gpu::A10g), None);
        assert_eq!(learnt.factor(Model::T2vA14b, Gpu::L4), None);
        let job = runs[0].job;
        assert!((learnt.seconds(&job, Gpu::L4) / job.seconds(Gpu::L4) - 1.5).abs() < 1e-9);
        assert_eq!(learnt.seconds(&job, Gpu::H100), job.seconds(Gpu::H100));
    }

    #[test]
    fn what_is_written_down_is_read_again_and_gives_way_to_what_is_newer() {
        let learnt = |factor| {
            Corrections::learn(&[run(50, 0, factor), run(50, 0, factor), run(9, 0, factor)])
        };
        let text = serde_json::to_string(&learnt(1.5)).unwrap();
        let older: Corrections = serde_json::from_str(&text).unwrap();
        assert_eq!(older, learnt(1.5));
        assert_eq!(learnt(2.0).over(&older), learnt(2.0));
        assert_eq!(Corrections::default().over(&older), older);
        let absurd = r#"[{"model": "ti2v-5B", "gpu": "l4", "factor": -1.0}]"#;
        assert_eq!(
            serde_json::from_str::<Corrections>(absurd).unwrap(),
            Corrections::default()
        );
    }

    #[test]
    fn long_runs_count_for_more() {
        let runs = [run(50, 0, 1.0), run(50, 0, 1.0), run(4, 0, 3.0)];
        let factor = Corrections::learn(&runs).factor(Model::Ti2v5b, Gpu::L4);
        assert!((1.0..1.1).contains(&factor.unwrap()), "{factor:?}");
    }
}
