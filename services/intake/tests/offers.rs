//! What the bucket's packs and LoRAs let a task ask for, and what a picture decides.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use std::collections::HashMap;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::Stage;

const COMMENT: &[u8] = b"secret";

async fn put(stage: &Stage, key: &str, body: Vec<u8>) -> String {
    let sha256 = hex::encode(Sha256::digest(&body));
    let put = stage
        .store
        .put_bytes(key, body.into(), "a/b", false, HashMap::new());
    put.await.unwrap();
    sha256
}

/// As much of a pack as intake reads: its index, and the tokenizer that it names.
async fn push(stage: &Stage, model: &str, fast: Value) {
    let vocab = ["\u{2581}a", "a", "b"].map(|piece| json!([piece, -1.0]));
    let tokenizer = json!({
        "normalizer": {"type": "Precompiled"},
        "pre_tokenizer": {"type": "Metaspace"},
        "model": {"type": "Unigram", "vocab": vocab},
    });
    let tokenizer = tokenizer.to_string().into_bytes();
    let sha256 = hex::encode(Sha256::digest(&tokenizer));
    put(stage, &format!("models/blobs/{sha256}"), tokenizer).await;
    let weights = "diffusion_pytorch_model.safetensors";
    let mut paths = vec![
        "tokenizer/tokenizer.json".to_owned(),
        "tokenizer/tokenizer_config.json".to_owned(),
        "scheduler/scheduler_config.json".to_owned(),
        "text_encoder/model.safetensors".to_owned(),
        "lora/high.safetensors".to_owned(),
        "lora/low.safetensors".to_owned(),
    ];
    for part in ["text_encoder", "vae", "transformer", "transformer_2"] {
        paths.push(format!("{part}/config.json"));
        paths.push(format!("{part}/{weights}"));
    }
    let file = |path: &String| json!({"path": path, "bytes": 1, "sha256": sha256});
    let index = json!({
        "format": "wanpack/1", "model": model, "compute": "bfloat16", "source": {}, "license": "",
        "fast": fast, "files": paths.iter().map(file).collect::<Vec<_>>(),
    });
    let key = format!("models/{model}/pack.json");
    put(stage, &key, index.to_string().into_bytes()).await;
}

fn picture(width: u32, height: u32) -> String {
    let mut bytes = Cursor::new(Vec::new());
    let drawn = image::RgbImage::new(width, height);
    drawn.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    STANDARD.encode(bytes.into_inner())
}

/// With a comment beside its pixels.
fn photograph() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let drawn = image::RgbImage::new(400, 300);
    drawn
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    let mut bytes = bytes.into_inner();
    // After the marker with which the file begins: a segment's marker and its length.
    bytes.splice(2..2, [&[0xff, 0xfe, 0, 8][..], COMMENT].concat());
    bytes
}

fn rules(answer: &Value) -> Vec<(String, String)> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let broken = answer["error"]["violations"].as_array();
    let broken = broken.unwrap_or_else(|| panic!("{answer}")).iter();
    broken
        .map(|one| (text(one, "field"), text(one, "rule")))
        .collect()
}

async fn show(stage: &Stage, id: &str) -> Value {
    stage.ask("get", json!({ "id": id }).to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_is_what_the_models_pack_says() {
    let stage = Stage::without_intake().await;
    let loras =
        json!({"transformer": "lora/high.safetensors", "transformer_2": "lora/low.safetensors"});
    let recipe = json!({"steps": 3, "shift": 8.0, "guidance": 1.5});
    let fast = json!({"loras": loras, "recipe": recipe, "source": {}, "license": ""});
    push(&stage, "t2v-A14B", fast).await;
    let older = json!({"loras": loras, "source": {}, "license": ""});
    push(&stage, "i2v-A14B", older).await;
    stage.start_intake(&[]).await;
    let task = |model: &str, id: &str| json!({"model": model, "prompt": "a fox", "id": id, "quality": "fast"});
    let asked = task("t2v-A14B", "three");
    let first = stage.submit(&asked).await;
    assert_eq!(first["id"], "three", "{first}");
    assert_eq!(
        stage.submit(&asked).await,
        first,
        "again, it is the same task"
    );
    let seen = show(&stage, "three").await;
    let numbers = ["steps", "shift", "guidance", "guidance_high_noise"].map(|key| &seen[key]);
    assert_eq!(numbers, [&json!(3), &json!(8.0), &json!(1.5), &json!(1.5)]);
    // A pack that does not say it has the weights of four steps.
    let mut asked = task("i2v-A14B", "four");
    asked["image"] = json!({"base64": picture(128, 128)});
    assert_eq!(stage.submit(&asked).await["id"], "four");
    assert_eq!(show(&stage, "four").await["steps"], 4);
    let refused = stage.submit(&task("ti2v-5B", "none")).await;
    assert_eq!(rules(&refused), [("quality".into(), "offered".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_of_too_many_tokens_is_refused_at_the_door() {
    let stage = Stage::without_intake().await;
    push(&stage, "t2v-A14B", Value::Null).await;
    stage.start_intake(&[]).await;
    let task = |prompt: String| json!({"model": "t2v-A14B", "prompt": prompt});
    let refused = stage.submit(&task("a ".repeat(512))).await;
    assert_eq!(rules(&refused), [("prompt".into(), "tokens".into())]);
    assert!(refused.to_string().contains("513 tokens"), "{refused}");
    let longest = stage.submit(&task("a ".repeat(511))).await;
    assert!(longest["id"].is_string(), "{longest}");
    let mut negative = task("a fox".into());
    negative["negative_prompt"] = json!("b ".repeat(600));
    let refused = stage.submit(&negative).await;
    assert_eq!(
        rules(&refused),
        [("negative_prompt".into(), "tokens".into())]
    );
    // Of a model whose tokenizer is not at hand nothing is known.
    let other = json!({"model": "ti2v-5B", "prompt": "a ".repeat(600)});
    assert!(stage.submit(&other).await["id"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lora_is_known_at_the_door_and_pinned() {
    let stage = Stage::set().await;
    let file = json!({"bytes": 1, "sha256": "a".repeat(64)});
    let index = json!({
        "format": "wanlora/1", "name": "fox", "model": "t2v-A14B", "files": {"transformer": file},
    });
    let index = index.to_string().into_bytes();
    let sha256 = put(&stage, "models/loras/fox/lora.json", index).await;
    let task = |model: &str, lora: Value| json!({"model": model, "prompt": "a fox", "id": "styled", "loras": [lora]});
    let asked = task(
        "t2v-A14B",
        json!({"name": "fox", "strength": 0.8, "expert": "high"}),
    );
    let first = stage.submit(&asked).await;
    assert_eq!(first["id"], "styled", "{first}");
    let seen = show(&stage, "styled").await;
    let wanted = json!([{"name": "fox", "strength": 0.8, "expert": "high", "sha256": sha256}]);
    assert_eq!(seen["loras"], wanted);
    assert_eq!(stage.submit(&asked).await, first);
    // Another strength is another task.
    let other = task(
        "t2v-A14B",
        json!({"name": "fox", "strength": 0.5, "expert": "high"}),
    );
    let conflict = stage.submit(&other).await;
    assert_eq!(conflict["error"]["code"], "conflict");
    assert_eq!(rules(&conflict)[0].0, "loras");
    for (model, lora) in [
        ("t2v-A14B", json!({"name": "wolf"})),
        ("ti2v-5B", json!({"name": "fox"})),
        ("t2v-A14B", json!({"name": "fox", "expert": "low"})),
    ] {
        let mut asked = task(model, lora);
        asked["id"] = json!("refused");
        let refused = stage.submit(&asked).await;
        let wanted = ("loras[0].name".into(), "offered".into());
        assert_eq!(rules(&refused), [wanted], "{refused}");
    }
    // What was accepted is answered for also when the LoRA is gone.
    stage
        .store
        .delete("models/loras/fox/lora.json")
        .await
        .unwrap();
    assert_eq!(stage.submit(&asked).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_decides_the_size_where_none_is_given_and_crops_are_told() {
    let stage = Stage::set().await;
    let task = |model: &str, size: Value, (width, height): (u32, u32)| json!({"model": model, "prompt": "a fox", "size": size, "image": {"base64": picture(width, height)}});
    let cases = [
        ("i2v-A14B", Value::Null, (800, 600), "1104x816", false),
        ("i2v-A14B", json!("480p"), (600, 600), "624x624", false),
        ("i2v-A14B", json!("832x480"), (600, 600), "832x480", true),
        ("ti2v-5B", Value::Null, (600, 800), "704x1280", true),
        ("ti2v-5B", Value::Null, (1280, 720), "1280x704", false),
    ];
    for (model, asked, shape, size, warned) in cases {
        let mut task = task(model, asked, shape);
        task["idempotency_key"] = json!(format!("{model} {shape:?} {size}"));
        let answer = stage.submit(&task).await;
        assert_eq!(answer["size"], size, "{answer}");
        assert_eq!(answer.get("warnings").is_some(), warned, "{answer}");
        assert_eq!(stage.submit(&task).await, answer, "the same again");
        let seen = show(&stage, answer["id"].as_str().unwrap()).await;
        let found = format!("{}x{}", seen["width"], seen["height"]);
        assert_eq!(found, size);
        assert_eq!(seen["crop_percent"].as_u64().unwrap() > 3, warned, "{seen}");
    }
    // Without a picture there is nothing to tell.
    let answer = stage
        .submit(&json!({"model": "ti2v-5B", "prompt": "a fox"}))
        .await;
    assert!(answer.get("size").is_none() && answer.get("warnings").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_engine_meets_the_bytes_that_a_client_sent() {
    let stage = Stage::set().await;
    let sent = photograph();
    let image = json!({"base64": STANDARD.encode(&sent)});
    let task = json!({"model": "i2v-A14B", "prompt": "a fox", "id": "one", "image": image});
    assert_eq!(stage.submit(&task).await["id"], "one");
    let key = show(&stage, "one").await["image"].clone();
    let stored = stage
        .store
        .get_bytes(key.as_str().unwrap(), 1 << 20)
        .await
        .unwrap();
    let (_, hash) = key.as_str().unwrap().split_at("images/".len());
    assert_eq!(
        hash,
        format!("{}.png", hex::encode(Sha256::digest(&stored)))
    );
    assert!(!stored.windows(COMMENT.len()).any(|part| part == COMMENT));
    // An object of the client's own becomes the same picture, and what was stored is taken as it is.
    put(&stage, "images/mine", sent).await;
    for (id, named) in [("two", json!("images/mine")), ("three", key.clone())] {
        let task =
            json!({"model": "i2v-A14B", "prompt": "a fox", "id": id, "image": {"s3_key": named}});
        assert_eq!(stage.submit(&task).await["id"], id);
        assert_eq!(stage.submit(&task).await["id"], id, "the same again");
        let seen = show(&stage, id).await;
        assert_eq!(seen["image"], key);
        assert_eq!(seen["width"], 1104);
    }
}
