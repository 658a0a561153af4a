use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;

use super::*;

const STEPS: u32 = 6;

fn spec(model: Model) -> TaskSpec {
    let request = TaskRequest {
        model: Model::T2vA14b.as_str().into(),
        prompt: "a red fox".into(),
        steps: Some(STEPS),
        ..TaskRequest::default()
    };
    let spec = request.validate(ambient::now()).unwrap().spec;
    TaskSpec {
        model,
        width: 64,
        height: 32,
        frames: 9,
        ..spec
    }
}

/// A checkpoint in parts, so that each can be spoiled.
struct File {
    state: Value,
    tensors: Vec<(&'static str, Dtype, Vec<usize>)>,
}

impl File {
    fn at(next_step: u32) -> Self {
        let latents = vec![1, 16, 3, 4, 8];
        let mut tensors = vec![
            ("latents", Dtype::F32, latents.clone()),
            ("embeds.prompt", Dtype::BF16, vec![1, TEXT_TOKENS, 8]),
            ("embeds.negative", Dtype::BF16, vec![1, TEXT_TOKENS, 8]),
        ];
        if next_step > 0 {
            tensors.push(("last_sample", Dtype::F32, latents.clone()));
            tensors.push(("model_outputs.1", Dtype::F32, latents.clone()));
        }
        if next_step > 1 {
            tensors.push(("model_outputs.0", Dtype::F32, latents));
        }
        if next_step == STEPS {
            tensors.truncate(1);
        }
        let phase = if next_step == STEPS {
            "decode"
        } else {
            "denoise"
        };
        let state = json!({
            "model": "t2v-A14B", "total": STEPS, "next_step": next_step, "phase": phase,
            "task_hash": "ab", "class": {"gpu": "cpu"},
        });
        Self { state, tensors }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn tensor(&mut self, name: &str) -> &mut (&'static str, Dtype, Vec<usize>) {
        let mut all = self.tensors.iter_mut();
        all.find(|(found, ..)| *found == name).unwrap()
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(found, ..)| *found != name);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let data = vec![7; 1 << 20];
        let views = self.tensors.iter().map(|(name, dtype, shape)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let view = TensorView::new(*dtype, shape.clone(), &data[..bytes]);
            (*name, view.unwrap())
        });
        let metadata = HashMap::from([(CHECKPOINT_FORMAT.to_owned(), self.state.to_string())]);
        safetensors::serialize(views, Some(metadata)).unwrap()
    }
}

fn look(bytes: &[u8], model: Model, next_step: u32) -> Result<(), Unfit> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    inspect(file.path(), &spec(model), next_step)
}

fn of_file(file: &File, next_step: u32) -> Result<(), Unfit> {
    look(&file.bytes(), Model::T2vA14b, next_step)
}

#[test]
fn every_step_of_a_render_is_taken() {
    for step in 0..=STEPS {
        of_file(&File::at(step), step).unwrap();
    }
}

#[test]
fn what_is_of_another_render_is_refused() {
    let state = |key: &'static str, value: Value| File::at(3).with(|file| file.state[key] = value);
    for (file, word) in [
        (state("model", json!("i2v-A14B")), "model"),
        (state("total", json!(7)), "number of steps"),
        (state("next_step", json!(4)), "next step"),
        (state("phase", json!("decode")), "phase"),
    ] {
        let said = of_file(&file, 3).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
    // The key says another step than the file.
    assert!(of_file(&File::at(3), 2).is_err());
    assert!(look(&File::at(3).bytes(), Model::Ti2v5b, 3).is_err());
    let other_state = File::at(3).with(|file| file.state = json!([1]));
    assert!(matches!(of_file(&other_state, 3), Err(Unfit::State(_))));
    let foreign = safetensors::serialize(Vec::<(&str, TensorView<'_>)>::new(), None).unwrap();
    let found = look(&foreign, Model::T2vA14b, 3);
    assert!(matches!(found, Err(Unfit::NoState { .. })));
}

#[test]
fn tensors_are_those_of_the_task_and_all_that_a_step_needs() {
    let spoilt = |name: &'static str, shape: &[usize]| {
        let shape = shape.to_vec();
        File::at(3).with(|file| file.tensor(name).2 = shape)
    };
    let half = File::at(3).with(|file| file.tensor("latents").1 = Dtype::F16);
    let whole = File::at(3).with(|file| file.tensor("embeds.prompt").1 = Dtype::I64);
    let stranger = File::at(3).with(|file| file.tensors.push(("extra", Dtype::F32, vec![1])));
    // This model starts from no image.
    let condition = ("condition", Dtype::F32, vec![1, 20, 3, 4, 8]);
    let image = File::at(3).with(|file| file.tensors.push(condition.clone()));
    for file in [
        spoilt("latents", &[1, 16, 3, 4, 9]),
        spoilt("last_sample", &[1, 16, 2, 4, 8]),
        spoilt("model_outputs.0", &[16, 3, 4, 8]),
        spoilt("embeds.negative", &[1, 226, 8]),
        spoilt("embeds.negative", &[1, TEXT_TOKENS, 0]),
        half,
        whole,
        stranger,
        image,
    ] {
        assert!(matches!(of_file(&file, 3), Err(Unfit::Tensor { .. })));
    }
    for name in [
        "latents",
        "embeds.prompt",
        "embeds.negative",
        "last_sample",
        "model_outputs.0",
        "model_outputs.1",
    ] {
        let found = of_file(&File::at(3).without(name), 3);
        assert!(matches!(found, Err(Unfit::Lacks(_))), "{name}");
    }
    let start_with_history = File::at(1).with(|file| file.state["next_step"] = json!(0));
    assert!(of_file(&start_with_history, 0).is_err());
}

#[test]
fn a_solver_without_a_history_needs_none_and_an_image_model_keeps_its_image() {
    let bare = |file: &mut File| {
        file.tensors
            .retain(|(name, ..)| matches!(*name, "latents" | "embeds.prompt"));
    };
    let euler = File::at(3).with(bare);
    assert!(of_file(&euler, 3).is_err());
    of_file(&euler.with(|file| file.state["solver"] = json!("euler")), 3).unwrap();
    let mut image = File::at(3).with(|file| file.state["model"] = json!("i2v-A14B"));
    image
        .tensors
        .push(("condition", Dtype::F32, vec![1, 20, 3, 4, 8]));
    look(&image.bytes(), Model::I2vA14b, 3).unwrap();
    image.tensor("condition").2 = vec![1, 20, 4, 4, 8];
    assert!(look(&image.bytes(), Model::I2vA14b, 3).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_part_of_a_file_is_taken_for_a_whole_one(at in any::<prop::sample::Index>(), more in 1usize..64) {
        let whole = File::at(3).bytes();
        let part = &whole[..at.index(whole.len())];
        prop_assert!(look(part, Model::T2vA14b, 3).is_err());
        let longer = [whole.as_slice(), &vec![0; more]].concat();
        prop_assert!(look(&longer, Model::T2vA14b, 3).is_err());
    }

    /// In the header, that is: what flips behind it only the hash can tell.
    #[test]
    fn a_flipped_bit_is_refused_or_of_no_consequence(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let whole = File::at(3).bytes();
        let length = u64::from_le_bytes(whole[..8].try_into().unwrap());
        let header = 8 + usize::try_from(length).unwrap();
        let at = at.index(header);
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        if look(&flipped, Model::T2vA14b, 3).is_ok() {
            // Only what this look leaves to the engine, or the name of a tensor into another of the same shape.
            let texts = [&whole, &flipped].map(|bytes| String::from_utf8_lossy(&bytes[8..header]).into_owned());
            let known = ["task_hash", "class", "gpu", "cpu", "ab"];
            let around = &texts[0][at.saturating_sub(20).min(texts[0].len())..];
            prop_assert!(known.iter().any(|word| around.contains(word)) || texts[0].as_bytes()[at - 8] == b' ', "{} at {at}", texts[1]);
        }
    }
}
