use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use spotreel_api::{ErrorCode, TaskRequest};
use spotreel_localcloud::TestCloud;
use spotreel_packs::PREFIX;
use spotreel_s3::{Keys, Store, StoreConfig};

use super::*;

async fn store(endpoint: String) -> Store {
    let config = StoreConfig::at(&endpoint, "us-east-1", "spotreel");
    Store::connect_with_keys(&config, Keys::new("local", "local-secret")).await
}

fn offers(store: Store, fast: Vec<Model>) -> Offers {
    Offers::new(Remote::new(store, PREFIX), QualityConfig { fast })
}

/// Nothing listens at this port.
const AWAY: &str = "http://127.0.0.1:1";

fn spec(model: &str, quality: &str, prompt: &str) -> TaskSpec {
    let request = json!({"model": model, "quality": quality, "prompt": prompt});
    let request: TaskRequest = serde_json::from_value(request).unwrap();
    let valid = request.validate(jiff::Timestamp::UNIX_EPOCH);
    valid.unwrap().spec
}

async fn put(store: &Store, key: &str, body: Vec<u8>) {
    let put = store.put_bytes(key, body.into(), "a/b", false, HashMap::new());
    put.await.unwrap();
}

fn tokenizer() -> Vec<u8> {
    let file = json!({"model": {"type": "Unigram", "vocab": [["\u{2581}a", -1.0], ["a", -1.0]]}});
    file.to_string().into_bytes()
}

/// An index of a pack with distilled weights.
fn index(model: &str) -> Vec<u8> {
    let mut paths = [
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "lora/high.safetensors",
        "lora/low.safetensors",
    ]
    .map(str::to_owned)
    .to_vec();
    for part in ["text_encoder", "vae", "transformer", "transformer_2"] {
        paths.push(format!("{part}/config.json"));
        paths.push(format!("{part}/diffusion_pytorch_model.safetensors"));
    }
    let sha256 = hex::encode(Sha256::digest(tokenizer()));
    let files: Vec<Value> = paths
        .iter()
        .map(|path| json!({"path": path, "bytes": 1, "sha256": sha256}))
        .collect();
    let loras =
        json!({"transformer": "lora/high.safetensors", "transformer_2": "lora/low.safetensors"});
    let index = json!({
        "format": "wanpack/1", "model": model, "compute": "bfloat16", "source": {}, "license": "",
        "fast": {"loras": loras, "source": {}, "license": ""}, "files": files,
    });
    index.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_asked_for_is_unavailable_and_not_refused_for_good() {
    let offers = offers(store(AWAY.to_owned()).await, vec![Model::I2vA14b]);
    offers.begin().await;
    let refused = offers.admit(&mut spec("t2v-A14B", "fast", "a fox"));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused:?}");
    assert!(error::is_transient(&refused));
    offers
        .admit(&mut spec("t2v-A14B", "standard", "a fox"))
        .unwrap();
    let mut named = spec("t2v-A14B", "fast", "a fox");
    named.model = Model::I2vA14b;
    offers.admit(&mut named).unwrap();
    assert!(matches!(offers.lora("fox").await, Lookup::Unread));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_offers_fast_before_its_tokenizer_can_be_read() {
    let cloud = TestCloud::start().await;
    let store = store(cloud.endpoint_url()).await;
    store.create_bucket_if_missing().await.unwrap();
    let offers = offers(store.clone(), Vec::new());
    let index = index("t2v-A14B");
    put(&store, "models/t2v-A14B/pack.json", index).await;
    offers.begin().await;
    let refused = offers.admit(&mut spec("ti2v-5B", "fast", "a fox"));
    assert_eq!(refused.unwrap_err().code, ErrorCode::Invalid);
    let long = "a ".repeat(600);
    offers.admit(&mut spec("t2v-A14B", "fast", &long)).unwrap();
    let blob = format!("models/blobs/{}", hex::encode(Sha256::digest(tokenizer())));
    put(&store, &blob, tokenizer()).await;
    offers.poll().await;
    let refused = offers.admit(&mut spec("t2v-A14B", "fast", &long));
    assert_eq!(refused.unwrap_err().violations[0].rule, "tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_missing_is_not_asked_for_again_at_once() {
    let cloud = TestCloud::start().await;
    let store = store(cloud.endpoint_url()).await;
    store.create_bucket_if_missing().await.unwrap();
    let offers = offers(store.clone(), Vec::new());
    assert!(matches!(offers.lora("fox").await, Lookup::Missing));
    let file = json!({"bytes": 1, "sha256": "a".repeat(64)});
    let index = json!({
        "format": "wanlora/1", "name": "fox", "model": "t2v-A14B", "files": {"transformer": file},
    });
    let key = "models/loras/fox/lora.json";
    put(&store, key, index.to_string().into_bytes()).await;
    assert!(matches!(offers.lora("fox").await, Lookup::Missing));
    lock(&offers.loras).clear();
    assert!(matches!(offers.lora("fox").await, Lookup::Found(_)));
}
