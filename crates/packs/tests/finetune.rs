//! Packs whose weights for `fast` are whole transformers.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint's own exemption does not see

mod scene;

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use scene::*;
use serde_json::{Value, json};
use spotreel_packs::*;

const LOW_CONFIG: &str = "transformer_2/config.json";
const FAST: FastSteps = FastSteps {
    scheduler: Scheduler::Euler,
    steps: 3,
    shift: 8.0,
    guidance: 1.0,
};

/// A model, and beside it one with other transformers.
fn published(dir: &Path) {
    for (name, seed) in [("from", 2), ("finetune", 20)] {
        let weights = Weights {
            experts: seed,
            ..Weights::default()
        };
        publish(&dir.join(name), T2V, weights);
    }
}

fn packed(dir: &Path) -> Result<Pack, MakeError> {
    let fast = FastRecipe {
        weights: FastWeights::Transformers(dir.join("finetune")),
        steps: FAST,
        source: json!({"repository": "a/b"}).as_object().unwrap().clone(),
        license: "MIT".to_owned(),
    };
    let recipe = PackRecipe {
        fast: Some(fast),
        ..recipe(T2V)
    };
    make(&dir.join("from"), &dir.join("to"), &recipe, |_| ())
}

#[tokio::test]
async fn distilled_transformers_go_with_their_pack_there_and_back() {
    let s = Scene::new().await;
    published(s.cloud.dir.path());
    // Shards, as a finetune is published; and what versions of diffusers write or leave out.
    let shard = "diffusion_pytorch_model-00001-of-00001.safetensors";
    let (low, sharded) = (
        s.path("finetune").join(LATE),
        format!("transformer_2/{shard}"),
    );
    fs::rename(&low, s.path("finetune").join(&sharded)).unwrap();
    let index = json!({"metadata": {}, "weight_map": {"noise": shard}});
    write_json(&s.path("finetune"), &format!("{LATE}.index.json"), &index);
    let path = s.path("finetune").join(LOW_CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["_diffusers_version"] = "0.36.0".into();
    config["image_dim"] = Value::Null;
    fs::write(&path, config.to_string()).unwrap();

    let pack = packed(s.cloud.dir.path()).unwrap();
    let fast = pack.index.fast.as_ref().unwrap();
    assert_eq!((fast.recipe, fast.loras.len()), (Some(FAST), 0));
    let files = ["transformer", "transformer_2"].map(|name| format!("fast/{name}"));
    for (expert, dir) in ["transformer", "transformer_2"].into_iter().zip(&files) {
        let weights = format!("{dir}/diffusion_pytorch_model.safetensors");
        assert_eq!(fast.weights[expert], weights);
        let read = |path: &str| fs::read(pack.dir.join(path)).unwrap();
        let own = format!("{expert}/diffusion_pytorch_model.safetensors");
        assert!(read(&weights) != read(&own), "other weights");
        let (config, own) = (
            format!("{dir}/config.json"),
            format!("{expert}/config.json"),
        );
        assert_eq!(read(&config), read(&own));
    }
    let order = pack.index.load_order();
    let last: Vec<_> = order.iter().rev().take(4).map(|file| &*file.path).collect();
    assert_eq!(last[0], LATE, "renders begin without this one only");
    assert_eq!(
        last[1..3],
        [
            &*fast.weights["transformer_2"],
            &*fast.weights["transformer"]
        ]
    );
    assert_eq!(last[3], HIGH);

    s.remote.push(&pack.dir, |_| ()).await.unwrap();
    let pulled = s.pull(T2V).await.unwrap();
    assert_eq!((&pulled.index, &pulled.sha256), (&pack.index, &pack.sha256));
    verify(&pulled.dir, |_| ()).unwrap();
    // The same input makes the same pack, and other weights another one.
    assert_eq!(packed(s.cloud.dir.path()).unwrap().sha256, pack.sha256);
    write_weights(&s.path("finetune"), &sharded, 77, Weights::default().bytes);
    assert_ne!(packed(s.cloud.dir.path()).unwrap().sha256, pack.sha256);
}

#[test]
fn what_cannot_take_the_transformers_place_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    published(dir);
    let refused = |wanted: &str| {
        let error = packed(dir).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(!dir.join("to").join(INDEX).exists(), "no half pack");
    };
    let ones = 1.0f32.to_le_bytes().repeat(4);
    let write = |of: &str, name: &'static str, shape: Vec<usize>, data: &[u8]| {
        write_tensors(
            &dir.join(of),
            LATE,
            &[
                ("a", Dtype::F32, vec![4], &ones),
                (name, Dtype::F32, shape, data),
            ],
        );
    };
    write("from", "b", vec![2, 2], &ones);
    write("finetune", "b", vec![2, 2], &ones);
    packed(dir).unwrap();
    write("finetune", "b", vec![4], &ones);
    refused("b has the shape [4], not [2, 2]");
    write("finetune", "c", vec![2, 2], &ones);
    refused("c has no place");
    write_tensors(
        &dir.join("finetune"),
        LATE,
        &[("a", Dtype::F32, vec![4], &ones)],
    );
    refused("b is missing");
    // The last is nearer to infinity than to any bfloat16.
    for odd in [f32::NAN, f32::NEG_INFINITY, f32::MAX] {
        let data = [&ones[..12], &odd.to_le_bytes()].concat();
        write("finetune", "b", vec![2, 2], &data);
        refused("b holds NaN or infinite numbers");
    }
    write_tensors(
        &dir.join("finetune"),
        LATE,
        &[
            ("a", Dtype::F32, vec![4], &ones),
            ("b", Dtype::F8_E4M3, vec![2, 2], &ones[..4]),
        ],
    );
    refused("b is in F8_E4M3: save it as");
    fs::remove_file(dir.join("finetune").join(LATE)).unwrap();
    refused("only safetensors are packed");
    let path = dir.join("finetune").join(LOW_CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["num_layers"] = 3.into();
    fs::write(&path, config.to_string()).unwrap();
    refused("num_layers is 3, and 2 in");
}

#[test]
fn an_index_with_half_of_a_finetune_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    published(dir.path());
    let pack = packed(dir.path()).unwrap();
    let path = pack.dir.join(INDEX);
    let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut index = whole.clone();
        change(&mut index);
        fs::write(&path, index.to_string()).unwrap();
        Pack::open(&pack.dir).unwrap_err().to_string()
    };
    let error = changed(&|index| {
        index["fast"]["weights"]
            .as_object_mut()
            .unwrap()
            .remove("transformer_2");
    });
    assert!(error.contains("has 2 transformers, not 1"), "{error}");
    let error = changed(&|index| {
        index["fast"]["loras"] = index["fast"]["weights"].clone();
    });
    assert!(error.contains("both LoRAs and weights"), "{error}");
    let error = changed(&|index| {
        let files = index["files"].as_array_mut().unwrap();
        files.retain(|file| file["path"] != "fast/transformer/config.json");
    });
    assert!(
        error.contains("has no fast/transformer/config.json"),
        "{error}"
    );
}
