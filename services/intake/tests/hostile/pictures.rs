//! Pictures of first frames: those of the table in the request itself, and those in the bucket.

use std::collections::HashMap;

use serde_json::json;

use super::case::{Case, case};
use super::stage::Stage;
use super::table;
use super::table::pictures::{claiming, good, with_chunk};

/// Names like any other: nothing lies there.
const ABSENT: [&str; 15] = [
    "images/nothing.png",
    "images/%2e%2e/renders/a.mp4",
    "images/..%2fa",
    "images/a?versionId=1",
    "images/a#b",
    "images/a b",
    "images/...",
    "images/\u{202e}gnp.a",
    "images/é",
    "images/a+b&c=d",
    "images/*",
    "images/a/",
    "images/${HOME}",
    "images/\u{2025}/a",
    "images/0000000000000000000000000000000000000000000000000000000000000000.png",
];

pub fn cases() -> Vec<Case> {
    let refused = |key: &str, rule| {
        let image = json!({ "s3_key": key });
        let task = json!({"model": "i2v-A14B", "prompt": "x", "image": image}).to_string();
        case(key, task, "image.s3_key", rule)
    };
    let absent = ABSENT.iter().map(|key| refused(key, "exists"));
    let stored = stored();
    let stored = stored.iter().map(|(key, _, rule)| refused(key, rule));
    let sent = table::pictures::cases().into_iter().map(Case::from);
    sent.chain(absent).chain(stored).collect()
}

/// What lies in the bucket, and why it is refused. The table has all that can be wrong with a picture.
fn stored() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let png = good();
    vec![
        ("images/hostile/empty.png", Vec::new(), "format"),
        ("images/hostile/text.png", b"no picture".to_vec(), "format"),
        (
            "images/hostile/bomb.png",
            claiming(65_535, 65_535, 8),
            "sides",
        ),
        ("images/hostile/large.jpg", vec![0; 20_000_001], "size"),
        (
            "images/hostile/cut.png",
            png[..png.len() - 1].to_vec(),
            "whole",
        ),
        (
            "images/hostile/moving.png",
            with_chunk(b"acTL", &[0; 8]),
            "still",
        ),
        // It has the look of what intake keeps, but not its bytes.
        (
            "images/6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d.png",
            b"\0".to_vec(),
            "format",
        ),
    ]
}

pub async fn put_objects(stage: &Stage) {
    for (key, bytes, _) in stored() {
        let put = stage
            .store
            .put_bytes(key, bytes.into(), "image/png", false, HashMap::new());
        put.await.unwrap();
    }
}

/// What a client put there may change after it was accepted: the task names a copy.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_checked_is_what_is_rendered() {
    let stage = Stage::set().await;
    let put = |bytes: Vec<u8>| {
        stage.store.put_bytes(
            "images/mine.png",
            bytes.into(),
            "image/png",
            false,
            HashMap::new(),
        )
    };
    let task = json!({"model": "i2v-A14B", "prompt": "x", "image": {"s3_key": "images/mine.png"}});
    put(good()).await.unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let id = stage.submit(&task).await["id"].clone();
        let seen = stage.ask("get", json!({ "id": id }).to_string()).await;
        keys.push(seen["image"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], "images/mine.png");
    put(b"no picture any more".to_vec()).await.unwrap();
    let kept = stage.store.get_bytes(&keys[0], 1 << 20).await.unwrap();
    assert_eq!(
        kept,
        spotreel_intake::images::examine(&good()).unwrap().bytes
    );
    let refused = stage.submit(&task).await;
    assert_eq!(
        refused["error"]["violations"][0]["rule"], "format",
        "{refused}"
    );
    let again = json!({"model": "i2v-A14B", "prompt": "x", "image": {"s3_key": keys[0]}});
    assert!(stage.submit(&again).await["id"].is_string());
}
