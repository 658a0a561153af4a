//! Packs that are not what their index says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use scene::*;
use serde_json::{Value, json};
use spotreel_domain::model::Model;
use spotreel_packs::*;
use tempfile::TempDir;

fn made(model: Model) -> (TempDir, Pack) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    publish(&from, model, Weights::default());
    let pack = make(&from, &to, &recipe(model), |_| ()).unwrap();
    (dir, pack)
}

#[test]
fn every_byte_is_read() {
    for model in Model::ALL {
        let (_dir, pack) = made(model);
        let read = AtomicU64::new(0);
        let found = verify(&pack.dir, |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        });
        assert_eq!(found.unwrap(), pack);
        assert_eq!(read.into_inner(), pack.index.bytes());
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let (_dir, pack) = made(T2V);
    let path = pack.dir.join(HIGH);
    let right = fs::read(&path).unwrap();
    let code = || verify(&pack.dir, |_| ()).unwrap_err().code();
    for at in [0, 9, 5000, right.len() - 1] {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        fs::write(&path, wrong).unwrap();
        assert_eq!(code(), "sha256_mismatch", "{at}");
        assert!(!pack.is_verified());
    }
    for bytes in [0, 1, right.len() - 1] {
        fs::write(&path, &right[..bytes]).unwrap();
        assert_eq!(code(), "truncated");
    }
    fs::write(&path, [&right[..], b"x"].concat()).unwrap();
    assert_eq!(code(), "truncated");
    fs::remove_file(&path).unwrap();
    assert_eq!(code(), "missing_file");
    fs::create_dir(&path).unwrap();
    assert!(["truncated", "unreadable"].contains(&code()));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &right).unwrap();
    verify(&pack.dir, |_| ()).unwrap();
    assert!(pack.is_verified());
    fs::remove_file(pack.dir.join(INDEX)).unwrap();
    assert_eq!(code(), "no_pack");
}

/// With hashes that fit: somebody has made such a pack.
#[test]
fn weights_that_are_no_safetensors_are_told() {
    let (_dir, pack) = made(T2V);
    let path = pack.dir.join(HIGH);
    let right = fs::read(&path).unwrap();
    let mut long = right.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let gap = [&right[..], b"more"].concat();
    let cases = [b"PK\x03\x04".to_vec(), vec![0; 8], long, gap, Vec::new()];
    for wrong in cases {
        fs::write(&path, &wrong).unwrap();
        edit(&pack, |index| {
            let files = index["files"].as_array_mut().unwrap();
            let file = files.iter_mut().find(|file| file["path"] == HIGH).unwrap();
            file["bytes"] = wrong.len().into();
            file["sha256"] = sha256(&wrong).into();
        });
        let error = verify(&pack.dir, |_| ()).unwrap_err();
        assert_eq!(error.code(), "not_safetensors", "{error}");
    }
}

#[test]
fn bad_indexes_are_refused() {
    let (_dir, pack) = made(T2V);
    let whole = fs::read(pack.dir.join(INDEX)).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        fs::write(pack.dir.join(INDEX), &whole).unwrap();
        edit(&pack, change);
        Pack::open(&pack.dir).unwrap_err().code()
    };
    let path = |path: &str| {
        let path = path.to_owned();
        move |index: &mut Value| index["files"][0]["path"] = path.clone().into()
    };
    for bad in [
        "../x",
        "a/../../x",
        "/x",
        "a//x",
        "./x",
        "",
        "a/",
        ".verified",
        "a/.x",
        "pack.json",
        "a\\x",
        "a\nx",
        "x.part",
        "vae/config.json",
    ] {
        assert_eq!(refused(&path(bad)), "bad_index", "{bad:?}");
    }
    for pickle in ["a.bin", "a.PT", "lora/a.ckpt", "x.pkl"] {
        assert_eq!(refused(&path(pickle)), "not_safetensors", "{pickle}");
    }
    assert_eq!(
        refused(&|index| index["format"] = "wanpack/2".into()),
        "bad_index"
    );
    assert_eq!(refused(&|index| index["model"] = "wan".into()), "bad_index");
    assert_eq!(
        refused(&|index| index["compute"] = "int4".into()),
        "bad_index"
    );
    assert_eq!(
        refused(&|index| index["files"][1]["sha256"] = "AB".into()),
        "bad_index"
    );
    assert_eq!(
        refused(&|index| index["files"][1]["bytes"] = (-1).into()),
        "bad_index"
    );
    let files = |index: &mut Value| {
        index["files"].as_array_mut().unwrap().pop();
    };
    assert_eq!(refused(&files), "missing_file");
    let fast = |component: &str, path: &str| {
        let fast = json!({"loras": {component: path}, "source": {}, "license": "MIT"});
        move |index: &mut Value| index["fast"] = fast.clone()
    };
    assert_eq!(
        refused(&fast("transformer", "lora/a.safetensors")),
        "missing_file"
    );
    assert_eq!(refused(&fast("transformer_3", HIGH)), "bad_index");
    assert_eq!(
        refused(&fast("transformer", "model_index.json")),
        "not_safetensors"
    );
    fs::write(pack.dir.join(INDEX), b"{").unwrap();
    assert_eq!(Pack::open(&pack.dir).unwrap_err().code(), "bad_index");
    fs::write(pack.dir.join(INDEX), vec![b' '; 2 << 20]).unwrap();
    assert_eq!(Pack::open(&pack.dir).unwrap_err().code(), "bad_index");
    fs::write(pack.dir.join(INDEX), &whole).unwrap();
    assert_eq!(
        Pack::open(&pack.dir)
            .unwrap()
            .of_model(Model::I2vA14b)
            .unwrap_err()
            .code(),
        "wrong_model"
    );
}

#[test]
fn the_order_is_that_of_loading() {
    let (dir, _) = made(T2V);
    let lora = dir.path().join("lora.safetensors");
    write_lora(&lora, &matrices("blocks.0.cross_attn.o", (8, 8)));
    let fast = FastRecipe {
        weights: FastWeights::Loras {
            high: lora.clone(),
            low: Some(lora),
            strength: None,
        },
        steps: FastSteps {
            scheduler: Scheduler::Euler,
            steps: 4,
            shift: 5.0,
            guidance: 1.0,
        },
        source: Default::default(),
        license: String::new(),
    };
    let recipe = PackRecipe {
        fast: Some(fast),
        ..recipe(T2V)
    };
    let pack = make(
        &dir.path().join("from"),
        &dir.path().join("fast"),
        &recipe,
        |_| (),
    )
    .unwrap();
    let order = pack.index.load_order();
    let heavy: Vec<_> = order
        .iter()
        .skip_while(|file| !file.path.ends_with("safetensors"))
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(
        heavy,
        [
            "text_encoder/model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            HIGH,
            "lora/high.safetensors",
            "lora/low.safetensors",
            LATE,
        ]
    );
    let late: Vec<_> = order.iter().filter(|file| file.is_late()).collect();
    assert_eq!(late, [order.last().unwrap()]);
}

fn edit(pack: &Pack, change: impl FnOnce(&mut Value)) {
    let path = pack.dir.join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}
