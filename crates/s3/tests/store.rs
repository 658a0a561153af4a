//! The store against the local cloud, through the real SDK.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use spotreel_localcloud::{Action, LocalCloud, Rule, TestCloud};
use spotreel_s3::*;

struct Scene {
    cloud: TestCloud,
    store: Store,
}

async fn scene() -> Scene {
    let cloud = TestCloud::start().await;
    let store = connect(&cloud).await;
    store.create_bucket_if_missing().await.unwrap();
    Scene { cloud, store }
}

async fn connect(cloud: &LocalCloud) -> Store {
    let config = StoreConfig::at(&cloud.endpoint_url(), "eu-central-1", "artifacts");
    let keys = Keys::new("local", "local-secret");
    Store::connect_with_keys(&config, keys).await
}

/// Bytes that do not repeat within a part.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn none() -> HashMap<String, String> {
    HashMap::new()
}

#[tokio::test]
async fn a_file_goes_there_and_back() {
    let s = scene().await;
    s.store.check().await.unwrap();
    s.store.create_bucket_if_missing().await.unwrap();
    for bytes in [0, 1, 70_000, 16 * 1024 * 1024, 30_000_000] {
        let body = noise(bytes);
        let path = file(s.cloud.dir.path(), "in", &body);
        let key = format!("videos/{bytes} bytes.mp4");
        let about = HashMap::from([("task".to_owned(), "t1".to_owned())]);
        let sum = hex(&body);
        let put = || {
            s.store
                .put_file_if_absent(&key, &path, &sum, "video/mp4", about.clone())
        };
        let put = (put().await.unwrap(), put().await.unwrap());
        assert_eq!(put, (Put::Created, Put::Exists), "{bytes}");
        let info = s.store.head(&key).await.unwrap().unwrap();
        assert_eq!((info.bytes, info.sha256), (bytes as u64, Some(hex(&body))));
        assert_eq!(info.metadata["task"], "t1");
        assert!(info.last_modified.is_some());
        let back = s.cloud.dir.path().join("back");
        s.store.get_to_file(&key, &back).await.unwrap();
        assert!(std::fs::read(back).unwrap() == body, "{bytes}");
    }
    assert_eq!(s.store.list("videos/").await.unwrap().len(), 5);
    assert_eq!(s.store.head("videos/none").await.unwrap(), None);
    let missing = s
        .store
        .get_to_file("videos/none", &s.cloud.dir.path().join("x"))
        .await;
    assert!(
        matches!(missing, Err(GetFileError::Missing { .. })),
        "{missing:?}"
    );
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_hashed_is_refused() {
    let s = scene().await;
    for bytes in [1000, 17_000_000] {
        let path = file(s.cloud.dir.path(), "in", &noise(bytes));
        let put = s
            .store
            .put_file_if_absent("k", &path, &hex(b"other"), "a/b", none())
            .await;
        assert!(
            matches!(put, Err(PutFileError::Changed { .. })),
            "{bytes}: {put:?}"
        );
        assert_eq!(s.store.head("k").await.unwrap(), None);
    }
}

#[tokio::test]
async fn keys_that_climb_are_refused() {
    let s = scene().await;
    for key in ["../x", "/x", "a/../../x", ""] {
        let put = s
            .store
            .put_bytes(key, Bytes::new(), "a/b", false, none())
            .await;
        assert!(matches!(put, Err(PutBytesError::Key(_))), "{put:?}");
        assert!(matches!(
            s.store.delete(key).await,
            Err(DeleteError::Key(_))
        ));
    }
    let long = "k".repeat(1000);
    s.store
        .put_bytes(&long, Bytes::from("x"), "a/b", true, none())
        .await
        .unwrap();
    assert_eq!(s.store.get_bytes(&long, 10).await.unwrap(), "x");
}

#[tokio::test]
async fn small_objects() {
    let s = scene().await;
    let put = |text: &'static str, if_absent| {
        s.store
            .put_bytes("k", Bytes::from(text), "text/plain", if_absent, none())
    };
    assert_eq!(put("one", true).await.unwrap(), Put::Created);
    assert_eq!(put("two", true).await.unwrap(), Put::Exists);
    assert_eq!(s.store.get_bytes("k", 3).await.unwrap(), "one");
    assert_eq!(put("three", false).await.unwrap(), Put::Created);
    assert_eq!(s.store.get_bytes("k", 5).await.unwrap(), "three");
    let large = s.store.get_bytes("k", 4).await;
    assert!(
        matches!(large, Err(GetBytesError::TooLarge { .. })),
        "{large:?}"
    );
    s.store.delete("k").await.unwrap();
    s.store.delete("k").await.unwrap();
    let gone = s.store.get_bytes("k", 4).await;
    assert!(
        matches!(gone, Err(GetBytesError::Missing { .. })),
        "{gone:?}"
    );
}

#[tokio::test]
async fn ranges_are_what_was_asked_for() {
    let s = scene().await;
    let body = noise(3_000_000);
    let put = |body: &[u8]| {
        let body = Bytes::copy_from_slice(body);
        s.store.put_bytes("k", body, "a/b", false, none())
    };
    put(&body).await.unwrap();
    let mut got = BytesMut::from("what was there before");
    for range in [
        0..1,
        7..8,
        0..3_000_000,
        2_999_999..3_000_000,
        1_000..2_500_001,
        5..5,
    ] {
        s.store
            .get_range("k", range.clone(), &mut got)
            .await
            .unwrap();
        let at = |byte| usize::try_from(byte).unwrap();
        assert!(got == body[at(range.start)..at(range.end)], "{range:?}");
    }
    for range in [
        2_999_999..3_000_001,
        3_000_000..3_000_001,
        0..u64::from(u32::MAX),
    ] {
        let short = s.store.get_range("k", range.clone(), &mut got).await;
        assert!(
            matches!(short, Err(GetRangeError::Short { .. })),
            "{range:?}: {short:?}"
        );
    }
    let missing = s.store.get_range("none", 0..1, &mut got).await;
    assert!(
        matches!(missing, Err(GetRangeError::Missing { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_prefix_is_listed_over_pages_and_deleted_in_batches() {
    let s = scene().await;
    for at in 0..1203 {
        let key = format!("p/{at:05}");
        s.store
            .put_bytes(&key, Bytes::from("x"), "a/b", true, none())
            .await
            .unwrap();
    }
    s.store
        .put_bytes("q/1", Bytes::from("xy"), "a/b", true, none())
        .await
        .unwrap();
    let listed = s.store.list("p/").await.unwrap();
    assert_eq!(listed.len(), 1203);
    assert!(listed.is_sorted_by_key(|listed| listed.key.clone()));
    assert!(s.store.delete_prefix("").await.is_err());
    assert_eq!(s.store.delete_prefix("p/").await.unwrap(), 1203);
    let rest = s.store.list("").await.unwrap();
    assert_eq!(
        (rest.len(), rest[0].key.as_str(), rest[0].bytes),
        (1, "q/1", 2)
    );
}

#[tokio::test]
async fn a_link_plays_ranges_expires_and_cannot_be_changed() {
    let s = scene().await;
    s.store
        .put_bytes(
            "v.mp4",
            Bytes::from("0123456789"),
            "video/mp4",
            true,
            none(),
        )
        .await
        .unwrap();
    let url = s
        .store
        .presign_get("v.mp4", None, Duration::from_secs(60))
        .await
        .unwrap()
        .url;
    let client = reqwest::Client::new();
    let whole = client.get(&url).send().await.unwrap();
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.headers()["content-type"], "video/mp4");
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.headers()["access-control-allow-origin"], "*");
    assert_eq!(whole.headers()["content-length"], "10");
    assert_eq!(whole.text().await.unwrap(), "0123456789");
    for (range, body, said) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=0-99", "0123456789", "bytes 0-9/10"),
    ] {
        let part = client
            .get(&url)
            .header("range", range)
            .send()
            .await
            .unwrap();
        assert_eq!(part.status(), 206, "{range}");
        assert_eq!(part.headers()["content-range"], said);
        assert_eq!(part.text().await.unwrap(), body);
    }
    let beyond = client
        .get(&url)
        .header("range", "bytes=10-")
        .send()
        .await
        .unwrap();
    assert_eq!(beyond.status(), 416);
    for tampered in [
        url.replace("v.mp4", "w.mp4"),
        url.replace("Expires=60", "Expires=99"),
    ] {
        assert_eq!(client.get(tampered).send().await.unwrap().status(), 403);
    }
    let preflight = client
        .request(reqwest::Method::OPTIONS, &url)
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 200);

    let short = s
        .store
        .presign_get("v.mp4", None, Duration::from_secs(1))
        .await
        .unwrap()
        .url;
    let expired = async {
        while client.get(&short).send().await.unwrap().status() != 403 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), expired)
        .await
        .unwrap();
    let never = s
        .store
        .presign_get("v.mp4", None, Duration::from_secs(8 * 86_400))
        .await;
    assert!(
        matches!(never, Err(PresignError::Expiry { .. })),
        "{never:?}"
    );
}

#[tokio::test]
async fn passing_faults_are_survived() {
    let s = scene().await;
    for action in [Action::InternalError, Action::SlowDown, Action::Reset] {
        let rule = Rule {
            times: Some(2),
            ..Rule::new("*", action)
        };
        s.cloud.fail([rule]);
        let key = format!("{action:?}");
        let put = s
            .store
            .put_bytes(&key, Bytes::from("x"), "a/b", true, none())
            .await;
        assert_eq!(put.unwrap(), Put::Created, "{action:?}");
        assert_eq!(s.cloud.faults().report()[0].fired, 2);
    }
}

#[tokio::test]
async fn a_lost_answer_reads_as_exists() {
    let s = scene().await;
    let body = noise(17_000_000);
    let path = file(s.cloud.dir.path(), "in", &body);
    for (op, key) in [("PutObject", "small"), ("CompleteMultipartUpload", "large")] {
        for action in [Action::InternalError, Action::Reset] {
            let rule = Rule {
                times: Some(1),
                after: true,
                ..Rule::new(op, action)
            };
            s.cloud.fail([rule]);
            let key = format!("{key}-{action:?}");
            let small = file(s.cloud.dir.path(), "small", b"x");
            let (path, body) = match op {
                "PutObject" => (&small, &b"x"[..]),
                _ => (&path, &body[..]),
            };
            let put = s
                .store
                .put_file_if_absent(&key, path, &hex(body), "a/b", none())
                .await;
            assert_eq!(put.unwrap(), Put::Exists, "{op} {action:?}");
            let info = s.store.head(&key).await.unwrap().unwrap();
            assert_eq!(info.sha256, Some(hex(body)));
        }
    }
}

#[tokio::test]
async fn what_lasts_is_told() {
    let s = scene().await;
    s.cloud.fail([Rule::new("*", Action::SlowDown)]);
    let put = s
        .store
        .put_bytes("k", Bytes::from("x"), "a/b", true, none())
        .await;
    let error = put.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    assert_eq!(error.to_string(), "PutObject failed: SlowDown");
    assert!(s.store.check().await.unwrap_err().retryable());
}

#[tokio::test]
async fn readiness_names_what_is_wrong() {
    let cloud = TestCloud::start().await;
    let store = connect(&cloud).await;
    let check = store.check().await;
    assert!(
        matches!(check, Err(CheckError::NoBucket { .. })),
        "{check:?}"
    );
}

#[test]
fn unknown_configuration_is_refused() {
    let good = "bucket = 'b'\nregion = 'eu-central-1'\n";
    let config: StoreConfig = toml::from_str(good).unwrap();
    assert!(!config.force_path_style && config.endpoint_url.is_none());
    assert!(toml::from_str::<StoreConfig>(&format!("{good}bukket = 1")).is_err());
}
