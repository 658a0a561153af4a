//! A typed bucket on a real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use spotreel_bus::bucket::{self, Bucket, Terms};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::names::MARKS_BUCKET;
use spotreel_test_kit::Nats;

fn only(revision: u64) -> Terms {
    Terms {
        revision: Some(revision),
        ..Terms::default()
    }
}

#[tokio::test]
async fn a_key_without_a_value_gets_one_once_also_after_it_was_deleted() {
    let nats = Nats::for_services().await;
    let client = nats.client("provision").await;
    let ones: Bucket<u64> = Bucket::new(&client, MARKS_BUCKET, "one.");
    assert!(ones.put_if_none("a", &1).await.unwrap());
    assert!(!ones.put_if_none("a", &2).await.unwrap());
    ones.delete("a", Terms::default()).await.unwrap();
    assert!(ones.get("a").await.unwrap().is_none());
    assert!(ones.put_if_none("a", &3).await.unwrap());
    let found = ones.get("a").await.unwrap().unwrap();
    assert_eq!(found.json::<u64>().unwrap(), 3);
}

#[tokio::test]
async fn a_key_is_written_and_deleted_only_at_the_revision_that_is_named() {
    let nats = Nats::for_services().await;
    let client = nats.client("provision").await;
    let ones: Bucket<u64> = Bucket::new(&client, MARKS_BUCKET, "one.");
    let others: Bucket<String> = Bucket::new(&client, MARKS_BUCKET, "other.");
    let first = ones.put("a", &1, only(0)).await.unwrap();
    assert!(matches!(
        ones.put("a", &2, only(0)).await,
        Err(JetStreamError::Conflict)
    ));
    let second = ones.put("a", &2, only(first)).await.unwrap();
    others
        .put("a", &"text".to_owned(), Terms::default())
        .await
        .unwrap();

    let found = ones.get("a").await.unwrap().unwrap();
    assert_eq!((found.json::<u64>().unwrap(), found.revision), (2, second));
    assert!(ones.get("b").await.unwrap().is_none());
    let all = bucket::read(&client, MARKS_BUCKET, &["one.*", "other.*"]).await;
    let keys: Vec<_> = all.unwrap().into_iter().map(|one| one.key).collect();
    assert_eq!(keys, ["one.a", "other.a"]);

    assert!(matches!(
        ones.delete("a", only(first)).await,
        Err(JetStreamError::Conflict)
    ));
    ones.delete("a", only(second)).await.unwrap();
    assert!(ones.get("a").await.unwrap().is_none());
    let all = bucket::read(&client, MARKS_BUCKET, &[">"]).await.unwrap();
    let keys: Vec<_> = all.into_iter().map(|one| one.key).collect();
    assert_eq!(keys, ["other.a"]);
}

#[test]
fn a_subject_names_a_key_of_its_own_bucket_alone() {
    let key_of = |subject| bucket::key_of("spotreel-marks", subject);
    assert_eq!(
        key_of("$KV.spotreel-marks.mode.default"),
        Some("mode.default")
    );
    assert_eq!(key_of("$KV.spotreel-marks2.mode"), None);
    assert_eq!(key_of("spotreel.log.a"), None);
}
