//! Packs made of what is published.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use scene::*;
use serde_json::json;
use spotreel_domain::model::Model;
use spotreel_packs::*;
use tempfile::TempDir;

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Name to format, shape and bytes.
fn read(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let told = tensors.iter().map(|(name, view)| {
        let about = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), about)
    });
    told.collect()
}

fn pack(from: &Path) -> Result<Pack, MakeError> {
    let to = from.with_extension("pack");
    make(from, &to, &recipe(T2V), |_| ())
}

fn published(dir: &TempDir) -> PathBuf {
    let from = dir.path().join("from");
    publish(&from, T2V, Weights::default());
    from
}

#[test]
fn float32_is_rounded_to_the_nearest_bfloat16() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    // As torch gives it, with the bits of both.
    let cases: [(u32, u16); 14] = [
        (0x3f80_0000, 0x3f80),
        (0xbf80_0000, 0xbf80),
        (0x0000_0000, 0x0000),
        (0x8000_0000, 0x8000),
        (0x7f80_0000, 0x7f80),
        (0xff80_0000, 0xff80),
        // Half of a step: to the even one, below or above.
        (0x3f80_8000, 0x3f80),
        (0x3f81_8000, 0x3f82),
        (0x3f80_8001, 0x3f81),
        (0x3f80_7fff, 0x3f80),
        // The largest float32 is nearer to infinity, and small ones keep their digits.
        (0x7f7f_ffff, 0x7f80),
        (0x0000_8001, 0x0001),
        (0x0000_8000, 0x0000),
        (0x3eaa_aaab, 0x3eab),
    ];
    let mut values: Vec<f32> = cases
        .iter()
        .map(|(bits, _)| f32::from_bits(*bits))
        .collect();
    values.push(f32::NAN);
    let data = floats(&values);
    let shape = vec![1, values.len()];
    let name = "text_encoder/model.safetensors";
    write_tensors(&from, name, &[("a", Dtype::F32, shape.clone(), &data)]);
    let made = pack(&from).unwrap();
    let (dtype, found, bytes) = read(&made.dir.join(name)).remove("a").unwrap();
    assert_eq!((dtype, found), (Dtype::BF16, shape));
    let (halves, _) = bytes.as_chunks::<2>();
    for (half, (bits, wanted)) in halves.iter().zip(cases) {
        assert_eq!(u16::from_le_bytes(*half), wanted, "{bits:#x}");
    }
    let nan = u16::from_le_bytes(halves[cases.len()]);
    assert_eq!(nan & 0x7fc0, 0x7fc0, "still no number, and quiet");
}

#[test]
fn what_counts_in_float32_stays() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    let data = floats(&[1.0, 1.000_001]);
    let tensor = |name| (name, Dtype::F32, vec![2], &data[..]);
    let names = [
        "blocks.0.attn1.to_q.weight",
        "blocks.0.norm2.weight",
        "blocks.0.attn1.norm_q.weight",
        "blocks.0.scale_shift_table",
        "condition_embedder.time_embedder.linear_1.bias",
        "condition_embedder.time_proj.bias",
        "scale_shift_table",
    ];
    write_tensors(&from, HIGH, &names.map(tensor));
    let vae = "vae/diffusion_pytorch_model.safetensors";
    write_tensors(&from, vae, &[tensor("a")]);
    let whole = |dtype| names.map(|name| (name.to_owned(), dtype)).into_iter();
    let formats = |pack: &Pack, path| {
        let read = read(&pack.dir.join(path)).into_iter();
        read.map(|(name, (dtype, ..))| (name, dtype))
            .collect::<BTreeMap<_, _>>()
    };
    let made = pack(&from).unwrap();
    let halved: Vec<_> = formats(&made, HIGH)
        .into_iter()
        .filter_map(|(name, dtype)| (dtype == Dtype::BF16).then_some(name))
        .collect();
    assert_eq!(
        halved,
        [
            "blocks.0.attn1.norm_q.weight",
            "blocks.0.attn1.to_q.weight",
            "condition_embedder.time_proj.bias"
        ]
    );
    assert_eq!(formats(&made, vae)["a"], Dtype::F32);
    let float32 = PackRecipe {
        compute: Compute::Float32,
        ..recipe(T2V)
    };
    let made = make(&from, &dir.path().join("float32"), &float32, |_| ()).unwrap();
    assert_eq!(formats(&made, HIGH), whole(Dtype::F32).collect());
}

#[test]
fn shards_become_one_file_of_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    fs::remove_file(from.join(HIGH)).unwrap();
    // One of them larger than what is read at once.
    let (large, small) = (noise(7, 3 << 20), noise(8, 24));
    let stem = |at| format!("diffusion_pytorch_model-0000{at}-of-00002.safetensors");
    let first = [
        ("b.large", Dtype::BF16, vec![3 << 19], &large[..]),
        ("c.odd", Dtype::U8, vec![3], &small[..3]),
    ];
    let second = [("a.bias", Dtype::F32, vec![2, 3], &small[..])];
    write_tensors(&from, &format!("transformer/{}", stem(1)), &first);
    write_tensors(&from, &format!("transformer/{}", stem(2)), &second);
    let map = json!({"b.large": stem(1), "c.odd": stem(1), "a.bias": stem(2)});
    let index = format!("{HIGH}.index.json");
    write_json(
        &from,
        &index,
        &json!({"metadata": {"total_size": 1}, "weight_map": map}),
    );
    let float32 = PackRecipe {
        compute: Compute::Float32,
        ..recipe(T2V)
    };
    let to = dir.path().join("to");
    let made = make(&from, &to, &float32, |_| ()).unwrap();
    let found = read(&made.dir.join(HIGH));
    assert_eq!(found.len(), 3);
    for (name, dtype, shape, data) in first.iter().chain(&second) {
        assert_eq!(
            found[*name],
            (*dtype, shape.clone(), data.to_vec()),
            "{name}"
        );
    }
    let text = fs::read(made.dir.join(HIGH)).unwrap();
    let text = String::from_utf8_lossy(&text[8..60]).into_owned();
    assert!(
        text.starts_with(r#"{"__metadata__":{"format":"pt"}"#),
        "{text}"
    );
    verify(&made.dir, |_| ()).unwrap();

    for (map, wanted) in [
        (json!({"a.bias": stem(1)}), "has no tensor a.bias"),
        (json!({"a.bias": stem(3)}), "is missing"),
        (
            json!({"a.bias": "../../etc/passwd"}),
            "does not exist beside it",
        ),
        (json!(["a"]), "not an index of shards"),
    ] {
        write_json(&from, &index, &json!({ "weight_map": map }));
        let error = make(&from, &to, &float32, |_| ()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!to.join(INDEX).exists(), "no half pack");
    }
}

#[test]
fn only_what_is_needed_is_packed_and_twice_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    for extra in [
        "README.md",
        "assets/logo.png",
        "transformer/old.bin",
        "tokenizer/notes.txt",
    ] {
        fs::create_dir_all(from.join(extra).parent().unwrap()).unwrap();
        fs::write(from.join(extra), "x").unwrap();
    }
    let made = pack(&from).unwrap();
    let paths: Vec<_> = made
        .index
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "transformer/config.json",
            HIGH,
            "transformer_2/config.json",
            LATE,
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
    assert!(made.is_verified());
    assert_eq!(pack(&from).unwrap(), made);
    verify(&made.dir, |_| ()).unwrap();
    // A pack is a directory in the same layout: one made of it is the same.
    let again = make(&made.dir, &dir.path().join("again"), &recipe(T2V), |_| ()).unwrap();
    assert_eq!(again.sha256, made.sha256);
}

#[test]
fn what_is_published_in_the_repository_can_be_packed() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../worker/engines/wan/packs/tiny");
    let dir = tempfile::tempdir().unwrap();
    for model in Model::ALL {
        let to = dir.path().join(model.as_str());
        let from = tiny.join(model.as_str());
        Pack::open(&from).unwrap().measure().unwrap();
        let made = make(&from, &to, &recipe(model), |_| ()).unwrap();
        for component in ["text_encoder/model", "vae/diffusion_pytorch_model"] {
            let path = format!("{component}.safetensors");
            let (before, after) = (read(&from.join(&path)), read(&made.dir.join(&path)));
            let about = |(name, (_, shape, _)): (String, (_, Vec<usize>, Vec<u8>))| (name, shape);
            let halved = after.values().any(|(dtype, ..)| *dtype == Dtype::BF16);
            assert_eq!(halved, component.starts_with("text"), "{component}");
            assert!(
                before
                    .into_iter()
                    .map(about)
                    .eq(after.into_iter().map(about))
            );
        }
        verify(&to, |_| ()).unwrap();
    }
}

#[test]
fn loras_come_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    for name in ["high", "low"] {
        let layer = "diffusion_model.blocks.1.self_attn.q";
        write_lora(&dir.path().join(name), &matrices(layer, (8, 8)));
    }
    let (high, low) = (dir.path().join("high"), dir.path().join("low"));
    let loras = |low| FastWeights::Loras {
        high: high.clone(),
        low,
        strength: None,
    };
    let fast = FastRecipe {
        weights: loras(Some(low)),
        steps: FastSteps {
            scheduler: Scheduler::Euler,
            steps: 3,
            shift: 8.0,
            guidance: 1.0,
        },
        source: json!({"repository": "a/b"}).as_object().unwrap().clone(),
        license: "MIT".to_owned(),
    };
    let with = |fast: FastRecipe| PackRecipe {
        fast: Some(fast),
        ..recipe(T2V)
    };
    let to = dir.path().join("to");
    let made = make(&from, &to, &with(fast.clone()), |_| ()).unwrap();
    let told = &made.index.fast.as_ref().unwrap();
    assert_eq!(told.recipe, Some(fast.steps));
    let told: Vec<_> = told
        .loras
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let wanted = [
        ("transformer", "lora/high.safetensors"),
        ("transformer_2", "lora/low.safetensors"),
    ];
    assert_eq!(told, wanted);
    // It is in the layout that engines are given already.
    assert_eq!(read(&made.dir.join("lora/high.safetensors")), read(&high));
    let endless = FastRecipe {
        steps: FastSteps {
            steps: 400,
            ..fast.steps
        },
        ..fast.clone()
    };
    let error = make(&from, &to, &with(endless), |_| ()).unwrap_err();
    assert!(error.to_string().contains("steps is 1 to 60"), "{error}");
    let one = FastRecipe {
        weights: loras(None),
        ..fast.clone()
    };
    let error = make(&from, &to, &with(one), |_| ()).unwrap_err();
    assert!(
        matches!(error, MakeError::Loras { experts: 2, .. }),
        "{error}"
    );
    fs::write(&high, "no weights").unwrap();
    let error = make(&from, &to, &with(fast), |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("not a safetensors file"),
        "{error}"
    );
    assert!(!to.join(INDEX).exists());
}

#[test]
fn what_cannot_be_packed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let from = published(&dir);
    let to = dir.path().join("to");
    let error = make(&from, &to, &recipe(Model::I2vA14b), |_| ()).unwrap_err();
    assert_eq!(
        error.to_string().split_once("is not a").unwrap().1,
        " transformer of i2v-A14B: in_channels is 16, not 36"
    );
    let error = make(&from, &from, &recipe(T2V), |_| ()).unwrap_err();
    assert!(matches!(error, MakeError::SameDirectory { .. }), "{error}");
    fs::rename(
        from.join(HIGH),
        from.join("transformer/diffusion_pytorch_model.bin"),
    )
    .unwrap();
    let error = make(&from, &to, &recipe(T2V), |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("only safetensors are packed"),
        "{error}"
    );
    let error = make(&dir.path().join("none"), &to, &recipe(T2V), |_| ()).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
}
