//! LoRAs as people have them: checked and brought into one layout, in packs and in the bucket.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use scene::*;
use spotreel_domain::model::{Expert, Model};
use spotreel_localcloud::{Action, Rule};
use spotreel_packs::*;

const PREFIX: &str = "diffusion_model.";
const QUERY: &str = "blocks.1.self_attn.q";
const FFN: &str = "blocks.0.ffn.0";

/// Every layer of a good file, by the authors' names.
fn good(prefix: &str) -> Vec<Tensor> {
    [(QUERY, (8, 8)), (FFN, (16, 8))]
        .into_iter()
        .flat_map(|(layer, sizes)| matrices(&format!("{prefix}{layer}"), sizes))
        .collect()
}

fn recipe_with(lora: &Path, strength: Option<f64>) -> PackRecipe {
    PackRecipe {
        fast: Some(FastRecipe {
            weights: FastWeights::Loras {
                high: lora.to_owned(),
                low: Some(lora.to_owned()),
                strength,
            },
            steps: FastSteps {
                scheduler: Scheduler::Euler,
                steps: 4,
                shift: 5.0,
                guidance: 1.0,
            },
            source: Default::default(),
            license: "MIT".to_owned(),
        }),
        ..recipe(T2V)
    }
}

/// Makes a pack with the file.
fn packed(tensors: &[Tensor], strength: Option<f64>) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let dir = tempfile::tempdir().unwrap();
    let (from, lora) = (dir.path().join("from"), dir.path().join("lora"));
    publish(&from, T2V, Weights::default());
    write_lora(&lora, tensors);
    let made = make(
        &from,
        &dir.path().join("to"),
        &recipe_with(&lora, strength),
        |_| (),
    );
    let made = made.map_err(|error| error.to_string())?;
    let bytes = fs::read(made.dir.join("lora/low.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| {
        let (numbers, _) = data.as_chunks::<4>();
        numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    };
    Ok(file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, numbers(view.data())))
        .collect())
}

fn refused(tensors: &[Tensor]) -> String {
    packed(tensors, None).unwrap_err()
}

#[test]
fn keys_of_every_trainer_become_the_same_file() {
    let wanted = packed(&good(PREFIX), None).unwrap();
    assert_eq!(wanted.len(), 6);
    assert_eq!(packed(&good(""), None).unwrap(), wanted);
    let renamed = |names: &[(&str, &str)]| -> Vec<Tensor> {
        let rename = |(name, dtype, shape, numbers): Tensor| {
            let name = names
                .iter()
                .fold(name, |name, (from, to)| name.replace(from, to));
            (name, dtype, shape, numbers)
        };
        good("").into_iter().map(rename).collect()
    };
    let musubi = renamed(&[
        (QUERY, "lora_unet_blocks_1_self_attn_q"),
        (FFN, "lora_unet_blocks_0_ffn_0"),
    ]);
    assert_eq!(packed(&musubi, None).unwrap(), wanted);
    let diffusers = renamed(&[
        (QUERY, "transformer.blocks.1.attn1.to_q"),
        (FFN, "transformer.blocks.0.ffn.net.0.proj"),
        ("lora_down", "lora_A"),
        ("lora_up", "lora_B"),
    ]);
    assert_eq!(packed(&diffusers, None).unwrap(), wanted);
}

#[test]
fn without_alpha_a_strength_must_be_given() {
    let mut bare = good(PREFIX);
    bare.retain(|(name, ..)| !name.ends_with("alpha"));
    let said = refused(&bare);
    assert!(
        said.contains("no alpha for blocks.0.ffn.0") && said.contains("strength"),
        "{said}"
    );
    let made = packed(&bare, Some(0.125)).unwrap();
    // Alpha is divided by the rank, which is 2.
    let alpha = &made[&format!("{PREFIX}{QUERY}.alpha")];
    assert_eq!(alpha, &[0.25]);
    let whole = packed(&good(PREFIX), Some(0.5)).unwrap();
    assert_eq!(whole[&format!("{PREFIX}{QUERY}.alpha")], [0.5]);
}

#[test]
fn an_alpha_or_a_strength_that_is_not_above_zero_is_refused() {
    for alpha in [0.0, -4.0] {
        let mut file = good(PREFIX);
        file[2].3 = vec![alpha];
        let said = refused(&file);
        assert!(
            said.contains(&format!("{PREFIX}{QUERY}.alpha is {alpha}")) && said.contains("above 0"),
            "{said}"
        );
    }
    for strength in [0.0, -0.5, f64::NAN, f64::INFINITY] {
        let said = packed(&good(PREFIX), Some(strength)).unwrap_err();
        assert!(
            said.contains(&format!(
                "the strength {strength} must be a finite number above 0"
            )),
            "{said}"
        );
    }
    let said = packed(&good(PREFIX), Some(1e-60)).unwrap_err();
    assert!(said.contains("1e-60, which float32 cannot hold"), "{said}");
}

#[test]
fn layers_outside_of_blocks_carry_their_alpha_in_the_matrix() {
    let mut file = good(PREFIX);
    file.extend(matrices("diffusion_model.text_embedding.0", (8, 6)));
    let made = packed(&file, None).unwrap();
    assert!(!made.contains_key("diffusion_model.text_embedding.0.alpha"));
    let up = &made["diffusion_model.text_embedding.0.lora_up.weight"];
    assert_eq!(up[..4], [0.0, 0.0625, 0.125, 0.1875], "alpha 1 by rank 2");
}

#[test]
fn whole_changes_have_a_place_or_the_file_is_refused_by_their_name() {
    let change = |name: &str, shape: Vec<usize>, value: f32| {
        let count = shape.iter().product();
        (
            format!("{PREFIX}{name}"),
            Dtype::F32,
            shape,
            vec![value; count],
        )
    };
    let with = |more: Tensor| {
        let mut file = good(PREFIX);
        file.push(more);
        file
    };
    for (name, shape) in [
        ("blocks.1.self_attn.q.diff_b", vec![8]),
        ("blocks.1.norm3.diff", vec![8]),
        ("blocks.1.self_attn.norm_q.diff", vec![8]),
        ("blocks.1.diff_m", vec![1, 6, 8]),
        ("head.diff_m", vec![1, 2, 8]),
    ] {
        let made = packed(&with(change(name, shape, 0.5)), None).unwrap();
        assert!(made.contains_key(&format!("{PREFIX}{name}")), "{name}");
    }
    for (name, shape) in [
        ("blocks.1.self_attn.q.diff", vec![8, 8]),
        ("patch_embedding.diff_b", vec![8]),
        ("blocks.1.norm2.diff_b", vec![8]),
        // The model has two blocks.
        ("blocks.2.norm3.diff", vec![8]),
    ] {
        let said = refused(&with(change(name, shape.clone(), 0.5)));
        assert!(said.contains(name) && said.contains("no place"), "{said}");
        let zeros = packed(&with(change(name, shape, 0.0)), None).unwrap();
        assert!(
            !zeros.contains_key(&format!("{PREFIX}{name}")),
            "zeros change nothing"
        );
    }
    let said = refused(&with(change("blocks.1.norm3.diff", vec![9], 0.5)));
    assert!(said.contains("shape [9]"), "{said}");
    let said = refused(&with(change("blocks.1.cross_attn.k.diff_b", vec![8], 0.5)));
    assert!(
        said.contains("cross_attn.k has a bias and no matrices"),
        "{said}"
    );
}

#[test]
fn a_file_with_nan_is_refused_by_its_name() {
    for (bad, dtype) in [(f32::NAN, Dtype::F32), (f32::INFINITY, Dtype::BF16)] {
        let mut file = good(PREFIX);
        file[1].1 = dtype;
        file[1].3[5] = bad;
        let said = refused(&file);
        assert!(said.contains("q.lora_up.weight holds NaN"), "{said}");
    }
}

type Spoil = fn(&mut Vec<Tensor>);

#[test]
fn what_does_not_fit_the_model_is_refused_by_its_name() {
    let cases: [(Spoil, &str); 7] = [
        (
            |file| file[0].2 = vec![1, 16],
            "q.lora_down.weight has the shape [1, 16]",
        ),
        (
            |file| drop(file.remove(1)),
            "self_attn.q has one matrix of two",
        ),
        (
            |file| file[0].0 = "transformer.blocks.0.attn1.to_q.lora_A.weight".into(),
            "named in different ways",
        ),
        (
            |file| file[0].0 = format!("{PREFIX}blocks.9.self_attn.q.lora_down.weight"),
            "blocks.9.self_attn.q.lora_down.weight has no place",
        ),
        (
            |file| file[0].0 = format!("{PREFIX}{QUERY}.dora_scale"),
            "dora_scale has no place",
        ),
        (
            |file| file[3].2 = vec![4, 4],
            "ffn.0.lora_down.weight has the shape [4, 4]",
        ),
        (Vec::clear, "no layer of a block"),
    ];
    for (spoil, wanted) in cases {
        let mut file = good(PREFIX);
        spoil(&mut file);
        let said = refused(&file);
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    // Alphas are whole numbers at times.
    let mut whole = good(PREFIX);
    whole[2].1 = Dtype::I64;
    assert_eq!(
        packed(&whole, None).unwrap(),
        packed(&good(PREFIX), None).unwrap()
    );
}

fn adding(scene: &Scene, name: &str, model: Model) -> AddLora {
    let scratch = scene.path(&format!("scratch-{name}"));
    fs::create_dir_all(&scratch).unwrap();
    let lora = scene.path("lora.safetensors");
    AddLora {
        name: name.to_owned(),
        model,
        files: LoraFiles {
            high: Some(lora.clone()),
            low: model.has_two_experts().then_some(lora),
        },
        strength: None,
        scratch,
        source: None,
        license: Some("MIT".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lora_is_added_found_fetched_and_removed() {
    let scene = Scene::new().await;
    write_lora(&scene.path("lora.safetensors"), &good(""));
    let early = scene.remote.add_lora(adding(&scene, "fox", T2V)).await;
    assert!(
        matches!(early, Err(LoraRemoteError::Sizes { .. })),
        "{early:?}"
    );
    scene.push(T2V, Weights::default()).await;
    let added = scene
        .remote
        .add_lora(adding(&scene, "fox", T2V))
        .await
        .unwrap()
        .lora;
    assert_eq!(added.index.files.len(), 2);
    assert!(added.index.changes(None) && added.index.changes(Some(Expert::Low)));
    assert_eq!(scene.remote.lora("fox").await.unwrap(), added);
    assert_eq!(
        scene.remote.loras().await.unwrap(),
        std::slice::from_ref(&added)
    );
    let file = &added.index.files["transformer_2"];
    let to = scene.path("fetched");
    scene.remote.fetch_lora("fox", file, &to).await.unwrap();
    assert_eq!(fs::metadata(&to).unwrap().len(), file.bytes);
    // Tasks name the hash of its index: the same files again leave it as it is, whatever is said of them.
    let mut again = adding(&scene, "fox", T2V);
    again.license = Some("Apache-2.0".to_owned());
    again.source = Some("somewhere/else".to_owned());
    let again = scene.remote.add_lora(again).await.unwrap();
    assert!(!again.is_new);
    assert_eq!(again.lora, added);
    assert_eq!(scene.remote.lora("fox").await.unwrap(), added);
    write_lora(&scene.path("lora.safetensors"), &matrices(QUERY, (8, 8)));
    let taken = scene.remote.add_lora(adding(&scene, "fox", T2V)).await;
    assert!(
        matches!(taken, Err(LoraRemoteError::Taken { .. })),
        "{taken:?}"
    );
    // A store that cannot tell what is there is no reason to write over it.
    scene.cloud.fail(vec![Rule {
        key_prefix: Some(format!("{}loras/", spotreel_packs::PREFIX)),
        ..Rule::new("GetObject", Action::InternalError)
    }]);
    let unknown = scene.remote.add_lora(adding(&scene, "fox", T2V)).await;
    assert!(
        matches!(unknown, Err(LoraRemoteError::Get { .. })),
        "{unknown:?}"
    );
    scene.cloud.faults().clear();
    assert_eq!(scene.remote.lora("fox").await.unwrap(), added);
    scene.remote.remove_lora("fox").await.unwrap();
    assert!(scene.remote.loras().await.unwrap().is_empty());
    let gone = scene.remote.lora("fox").await;
    assert!(
        matches!(gone, Err(LoraRemoteError::Missing { .. })),
        "{gone:?}"
    );
    let gone = scene.remote.fetch_lora("fox", file, &to).await;
    assert!(gone.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_leaves_loras_alone_and_bad_ones_never_come_in() {
    let scene = Scene::new().await;
    scene.push(T2V, Weights::default()).await;
    write_lora(&scene.path("lora.safetensors"), &good(PREFIX));
    let added = scene
        .remote
        .add_lora(adding(&scene, "fox", T2V))
        .await
        .unwrap()
        .lora;
    // In 2242: everything is older.
    let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
    let stop = Default::default();
    scene.remote.prune(later, "test", &stop).await.unwrap();
    let to = scene.path("fetched");
    for file in added.index.files.values() {
        scene.remote.fetch_lora("fox", file, &to).await.unwrap();
    }
    let mut bad = good(PREFIX);
    bad[0].3[0] = f32::NAN;
    write_lora(&scene.path("lora.safetensors"), &bad);
    let refused = scene.remote.add_lora(adding(&scene, "bad", T2V)).await;
    assert!(refused.unwrap_err().to_string().contains("NaN"));
    let file = fs::File::create(scene.path("lora.safetensors")).unwrap();
    file.set_len(MAX_LORA_BYTES + 1).unwrap();
    let large = scene.remote.add_lora(adding(&scene, "large", T2V)).await;
    assert!(
        matches!(large, Err(LoraRemoteError::TooLarge { .. })),
        "{large:?}"
    );
    let misnamed = scene.remote.add_lora(adding(&scene, "Bad Name", T2V)).await;
    assert!(matches!(misnamed, Err(LoraRemoteError::Name { .. })));
    assert_eq!(scene.remote.loras().await.unwrap().len(), 1);
}
