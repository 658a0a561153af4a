//! Which tasks this machine cannot render: by what its engine offers, by its card's memory, and by what did not fit before.

use std::collections::{BTreeMap, BTreeSet};

use spotreel_bus::Delivery;
use spotreel_domain::render_time::{Gpu, Job, Weights, needed_gb};
use spotreel_domain::task::TaskSpec;
use spotreel_domain::{Model, Quality};
use spotreel_packs::Index;

use crate::engine::protocol::{EngineHello, FEATURE_LORAS};

/// Work items kept in mind; one that is forgotten is declined once more.
const DECLINED_KEPT: usize = 10_000;

/// Why this machine's engine cannot render a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Four steps without distilled weights are noise, which the gate could take for a picture.
    #[error("{whose} has no distilled weights for {quality}: submit it as standard")]
    NoDistilledWeights { whose: String, quality: Quality },
    /// A video without what the task names would be another video.
    #[error("the engine {engine} merges no LoRAs: leave them out")]
    NoLoras { engine: String },
}

/// The task does not fit this accelerator; no second try will show anything else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TooLarge {
    pub message: String,
    /// Of accelerator memory, if known.
    pub needed_bytes: Option<u64>,
}

/// What did not fit on this machine.
#[derive(Default)]
pub struct Misfits {
    /// By model, the fewest tokens that did not fit, and what was said of them.
    too_large: BTreeMap<Model, (u32, TooLarge)>,
    /// The work items that were declined for their size.
    declined: BTreeSet<u64>,
}

impl Misfits {
    /// What was refused once for its size, or what is larger, will be refused again.
    pub fn check(&self, job: &Job) -> Result<(), TooLarge> {
        match self.too_large.get(&job.model) {
            Some((least, why)) if job.tokens() >= *least => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// `why`: if the task did not fit.
    pub fn remember(&mut self, spec: &TaskSpec, why: Option<TooLarge>) {
        let Some(why) = why else { return };
        let tokens = Job::of(spec).tokens();
        let known = self.too_large.get(&spec.model);
        if known.is_none_or(|(least, _)| tokens < *least) {
            self.too_large.insert(spec.model, (tokens, why));
        }
    }

    pub fn decline(&mut self, delivery: &Delivery) {
        if self.declined.len() == DECLINED_KEPT {
            self.declined.pop_first();
        }
        self.declined.insert(delivery.sequence);
    }

    pub fn has_declined(&self, delivery: &Delivery) -> bool {
        self.declined.contains(&delivery.sequence)
    }
}

/// Whether a card has memory for it.
pub fn check_memory(gpu: Gpu, job: &Job) -> Result<(), TooLarge> {
    if gpu.weights(job).is_some() {
        return Ok(());
    }
    let Job {
        model,
        width,
        height,
        frames,
        ..
    } = job;
    let (card, has) = (gpu.name(), gpu.memory_gb());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "memory is far below 2^53 bytes"
    )]
    let needed = (needed_gb(job, Weights::Float8) * 1e9) as u64;
    Err(TooLarge {
        message: format!(
            "{model} with {width}x{height} and {frames} frames does not fit on {card} with {has} GB"
        ),
        needed_bytes: Some(needed),
    })
}

/// Whether there are weights for the task's quality. Where the worker keeps the packs, it knows what is in them; else the
/// engine does.
pub fn check_quality(
    hello: &EngineHello,
    pack: Option<&Index>,
    model: Model,
    quality: Quality,
) -> Result<(), Unsuitable> {
    let (has, whose) = match pack {
        Some(pack) => (pack.fast.is_some(), format!("the pack of {model}")),
        None => (
            hello.renders_fast(model.as_str()),
            format!("the engine {}", hello.name),
        ),
    };
    if !quality.needs_distilled_weights() || has {
        return Ok(());
    }
    Err(Unsuitable::NoDistilledWeights { whose, quality })
}

pub fn check_loras(hello: &EngineHello, spec: &TaskSpec) -> Result<(), Unsuitable> {
    if spec.loras.is_empty() || hello.has(FEATURE_LORAS) {
        return Ok(());
    }
    let engine = hello.name.clone();
    Err(Unsuitable::NoLoras { engine })
}

#[cfg(test)]
mod tests {
    use spotreel_domain::task::FailureKind;

    use super::*;
    use crate::task::error::{AttemptError, Blame};

    const MODEL: Model = Model::T2vA14b;

    #[test]
    fn fast_is_refused_where_the_engine_has_no_weights_for_it() {
        let mut hello = EngineHello {
            name: "wan".into(),
            features: vec!["exact_resume".into()],
            ..EngineHello::default()
        };
        for quality in [Quality::Standard, Quality::Best] {
            assert_eq!(check_quality(&hello, None, MODEL, quality), Ok(()));
        }
        let refused = check_quality(&hello, None, MODEL, Quality::Fast).unwrap_err();
        let error = AttemptError::from(refused);
        assert!(error.engine().is_none(), "the next task is welcome");
        let failure = error.record();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(!failure.kind.may_be_retried());
        assert!(failure.message.contains("wan has no distilled weights"));
        hello.features.push("fast:t2v-A14B".into());
        assert_eq!(check_quality(&hello, None, MODEL, Quality::Fast), Ok(()));
        assert!(check_quality(&hello, None, Model::I2vA14b, Quality::Fast).is_err());
    }

    #[test]
    fn a_pack_that_the_worker_keeps_decides_and_not_the_engine() {
        let index = serde_json::json!({
            "format": "wanpack/1", "model": "t2v-A14B", "compute": "bfloat16", "source": {}, "license": "", "files": [],
        });
        let mut index: Index = serde_json::from_value(index).unwrap();
        let hello = EngineHello {
            features: vec!["fast".into()],
            ..EngineHello::default()
        };
        let refused = check_quality(&hello, Some(&index), MODEL, Quality::Fast).unwrap_err();
        assert!(refused.to_string().contains("the pack of t2v-A14B"));
        let fast = serde_json::json!({"loras": {}, "source": {}, "license": ""});
        index.fast = serde_json::from_value(fast).unwrap();
        let hello = EngineHello::default();
        assert_eq!(
            check_quality(&hello, Some(&index), MODEL, Quality::Fast),
            Ok(())
        );
    }

    #[test]
    fn what_the_card_cannot_hold_is_left_to_others_before_anything_is_pulled() {
        let job = |frames| Job {
            frames,
            ..Job::smallest_usual(MODEL)
        };
        assert_eq!(check_memory(Gpu::L40s, &job(81)), Ok(()));
        assert_eq!(
            check_memory(Gpu::L4, &job(45)),
            Ok(()),
            "with quantised weights"
        );
        let refused = check_memory(Gpu::L4, &job(81)).unwrap_err();
        let error = AttemptError::from(Unsuitable::from(refused));
        assert!(error.too_large().is_some() && error.blame() == Blame::Worker);
        let said = error.record().message;
        assert!(
            said.contains("it takes 30 GB") && said.contains("A100 with 40 GB"),
            "{said}"
        );
    }
}
