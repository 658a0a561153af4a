//! A bucket of the local cloud, and small models to make packs of.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};
use spotreel_domain::model::Model;
use spotreel_localcloud::{Action, Rule, TestCloud};
use spotreel_packs::*;
use spotreel_s3::{Keys, Store, StoreConfig};
use tokio::sync::watch;

pub const T2V: Model = Model::T2vA14b;
/// The low-noise expert's weights.
pub const LATE: &str = "transformer_2/diffusion_pytorch_model.safetensors";
pub const HIGH: &str = "transformer/diffusion_pytorch_model.safetensors";

pub struct Scene {
    pub cloud: TestCloud,
    pub store: Store,
    pub remote: Remote,
}

impl Scene {
    pub async fn new() -> Self {
        let cloud = TestCloud::start().await;
        let config = StoreConfig::at(&cloud.endpoint_url(), "us-east-2", "models");
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config, keys).await;
        store.create_bucket_if_missing().await.unwrap();
        Self {
            cloud,
            remote: Remote::new(store.clone(), PREFIX),
            store,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.cloud.dir.path().join(name)
    }

    /// Made, and in the bucket.
    pub async fn push(&self, model: Model, weights: Weights) -> Arc<Pack> {
        let made = self.made(model, weights);
        self.remote.push(&made.dir, |_| ()).await.unwrap().pack
    }

    pub fn made(&self, model: Model, weights: Weights) -> Pack {
        let from = self.path(&format!("source-{model}"));
        let to = self.path(&format!("made-{model}"));
        publish(&from, model, weights);
        make(&from, &to, &recipe(model), |_| ()).unwrap()
    }

    pub async fn pull(&self, model: Model) -> Result<Arc<Pack>, PullError> {
        self.pull_with(model, &PullOptions::default()).await
    }

    pub async fn pull_with(
        &self,
        model: Model,
        options: &PullOptions,
    ) -> Result<Arc<Pack>, PullError> {
        let (told, _) = watch::channel(Progress::default());
        let packs = self.path("packs");
        self.remote.pull(model, &packs, options, told).await
    }

    /// Counts the GETs of blobs from now on.
    pub fn count(&self) {
        let rule = Rule {
            key_prefix: Some(format!("{PREFIX}blobs/")),
            ..Rule::new("GetObject", Action::Delay)
        };
        self.cloud.fail([rule]);
    }

    pub fn counted(&self) -> u64 {
        self.cloud.faults().report()[0].matched
    }

    pub fn blob(&self, pack: &Pack, path: &str) -> String {
        let mut files = pack.index.files.iter();
        let file = files.find(|file| file.path == path).unwrap();
        format!("{PREFIX}blobs/{}", file.sha256)
    }

    /// Another body under the key, as nobody but a broken store has it.
    pub async fn replace(&self, key: &str, body: Vec<u8>) {
        self.store
            .put_bytes(key, body.into(), "a/b", false, HashMap::new())
            .await
            .unwrap();
    }
}

/// What differs between two packs.
#[derive(Clone, Copy)]
pub struct Weights {
    pub text: u32,
    pub experts: u32,
    /// Of each expert.
    pub bytes: usize,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            text: 1,
            experts: 2,
            bytes: 300_000,
        }
    }
}

pub fn recipe(model: Model) -> PackRecipe {
    let source = json!({"repository": "nobody/nothing", "revision": "1"});
    PackRecipe {
        model,
        compute: Compute::Bfloat16,
        source: source.as_object().unwrap().clone(),
        license: "Apache-2.0".to_owned(),
        fast: None,
    }
}

/// A model in diffusers' layout, as it is published; what it holds is noise.
pub fn publish(dir: &Path, model: Model, weights: Weights) {
    let (channels, latents) = match model {
        Model::Ti2v5b => (48, 48),
        Model::T2vA14b => (16, 16),
        Model::I2vA14b => (36, 16),
    };
    let experts: &[&str] = match model {
        Model::Ti2v5b => &["transformer"],
        _ => &["transformer", "transformer_2"],
    };
    for (at, expert) in experts.iter().enumerate() {
        write_json(
            dir,
            &format!("{expert}/config.json"),
            &json!({"in_channels": channels, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 4,
                    "ffn_dim": 16, "text_dim": 6, "freq_dim": 10, "out_channels": 2, "patch_size": [1, 2, 2]}),
        );
        let seed = weights.experts + u32::try_from(at).unwrap();
        let name = format!("{expert}/diffusion_pytorch_model.safetensors");
        write_weights(dir, &name, seed, weights.bytes);
    }
    write_json(dir, "vae/config.json", &json!({"z_dim": latents}));
    write_weights(dir, "vae/diffusion_pytorch_model.safetensors", 3, 1000);
    write_json(dir, "text_encoder/config.json", &json!({"d_model": 32}));
    write_weights(dir, "text_encoder/model.safetensors", weights.text, 50_000);
    for name in ["tokenizer", "tokenizer_config"] {
        write_json(dir, &format!("tokenizer/{name}.json"), &json!({"a": 1}));
    }
    write_json(
        dir,
        "scheduler/scheduler_config.json",
        &json!({"shift": 3.0}),
    );
    write_json(dir, "model_index.json", &json!({"of": model.as_str()}));
}

pub fn write_json(dir: &Path, name: &str, value: &Value) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

pub fn write_weights(dir: &Path, name: &str, seed: u32, bytes: usize) {
    let noise = noise(seed, bytes);
    write_tensors(dir, name, &[("noise", Dtype::U8, vec![bytes], &noise)]);
}

pub fn write_tensors(dir: &Path, name: &str, tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    serialize_to_file(views, None, &path).unwrap();
}

/// Bytes that do not repeat soon.
pub fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Of a LoRA: its name, format, shape and numbers.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<f32>);

/// Two matrices of rank 2 for a layer of the models that [`publish`] makes, and their alpha.
pub fn matrices(layer: &str, (out, into): (usize, usize)) -> Vec<Tensor> {
    let count = |numbers: usize| (0..numbers).map(|at| f32::from(u8::try_from(at).unwrap()) / 8.0);
    vec![
        (
            format!("{layer}.lora_down.weight"),
            Dtype::F32,
            vec![2, into],
            count(2 * into).collect(),
        ),
        (
            format!("{layer}.lora_up.weight"),
            Dtype::F32,
            vec![out, 2],
            count(2 * out).collect(),
        ),
        (format!("{layer}.alpha"), Dtype::F32, vec![], vec![1.0]),
    ]
}

pub fn write_lora(path: &Path, tensors: &[Tensor]) {
    let bytes: Vec<_> = tensors
        .iter()
        .map(|(_, dtype, _, numbers)| bytes_of(*dtype, numbers))
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, dtype, shape, _), data)| {
            (
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), data).unwrap(),
            )
        });
    serialize_to_file(views, None, path).unwrap();
}

fn bytes_of(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of tests")]
    let bytes = |number: &f32| match dtype {
        Dtype::F32 => number.to_le_bytes().to_vec(),
        Dtype::BF16 => number.to_le_bytes()[2..].to_vec(),
        Dtype::I64 => (*number as i64).to_le_bytes().to_vec(),
        _ => vec![*number as u8],
    };
    numbers.iter().flat_map(bytes).collect()
}
