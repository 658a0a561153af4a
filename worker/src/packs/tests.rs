use std::collections::BTreeSet;
use std::fs;

use spotreel_bootstrap::Health;
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_packs::RemoteError;

use super::pull::NextPull;
use super::*;
use crate::task::error::AttemptError;

const FIRST: Model = Model::Ti2v5b;
const SECOND: Model = Model::T2vA14b;
const THIRD: Model = Model::I2vA14b;
const SOON: Duration = Duration::from_millis(50);

/// Asks no bucket of anything.
async fn cache(dir: &Path, keep_free_gb: u64) -> PackCache {
    let section = PacksSection {
        dir: dir.display().to_string(),
        bucket: String::new(),
        prefix: "models/".into(),
        connections: 1,
        keep_free_gb,
    };
    let s3 = StoreConfig::at("http://127.0.0.1:9", "us-east-1", "b");
    let remote = remote(&section, &s3).await;
    PackCache::of(&section, &[FIRST, SECOND], &remote).unwrap()
}

fn tiny(model: Model) -> Pack {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/wan/packs/tiny");
    Pack::open(&packs.join(model.as_str())).unwrap()
}

fn here(cache: &PackCache, model: Model, arriving: &[&str]) {
    let pack = Arc::new(tiny(model));
    let arriving = arriving.iter().map(PathBuf::from).collect();
    cache.stand(model, Standing::Ready(ReadyPack { pack, arriving }));
}

fn missing(cache: &PackCache, model: Model) {
    let bucket = "b".into();
    cache.failed(model, &RemoteError::NoPack { bucket, model }.into());
}

fn next(cache: &PackCache) -> NextPull {
    cache.next(&BTreeSet::new())
}

/// As the task's record tells it.
fn record(error: PackUnavailable) -> Failure {
    AttemptError::from(error).record()
}

#[tokio::test]
async fn first_in_order_then_what_a_task_wants_then_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0).await;
    assert_eq!(next(&cache), NextPull::Wanted(FIRST), "nothing is here yet");
    let waits = cache.ready(SECOND, SOON).await;
    assert!(record(waits.unwrap_err()).message.ends_with("(pack)"));
    assert_eq!(next(&cache), NextPull::Wanted(SECOND));
    here(&cache, SECOND, &["late"]);
    assert_eq!(next(&cache), NextPull::Wanted(SECOND), "a file is missing");
    assert_eq!(cache.ready(SECOND, SOON).await.unwrap().arriving.len(), 1);
    here(&cache, SECOND, &[]);
    assert_eq!(next(&cache), NextPull::Ahead(FIRST));
    assert_eq!(cache.next(&BTreeSet::from([FIRST])), NextPull::Nothing);
    here(&cache, FIRST, &[]);
    assert_eq!(next(&cache), NextPull::Nothing);
}

#[tokio::test]
async fn a_pack_that_does_not_come_is_told_at_once_and_tasks_of_it_are_left_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0).await;
    missing(&cache, FIRST);
    assert_eq!(
        next(&cache),
        NextPull::Wanted(SECOND),
        "the other is tried meanwhile"
    );
    let error = cache.ready(FIRST, Duration::from_secs(60)).await;
    let Failure { kind, message } = record(error.unwrap_err());
    assert_eq!(kind, FailureKind::Model);
    assert!(
        message.contains("no pack of ti2v-5B") && message.ends_with("(pack)"),
        "{message}"
    );
    assert!(!cache.may_come(FIRST) && cache.may_come(SECOND));
    let health = Health::new();
    cache.tell(&health);
    assert!(!health.readiness().ready);
    here(&cache, SECOND, &["late"]);
    cache.tell(&health);
    assert!(health.readiness().ready, "one of two can be rendered");
    let gives_up = given_up(Some(&cache), Some(SECOND));
    assert!(tokio::time::timeout(SOON, gives_up).await.is_err());
    missing(&cache, SECOND);
    let error = given_up(Some(&cache), Some(SECOND)).await;
    assert!(record(error).message.ends_with("(pack)"));
}

#[tokio::test]
async fn room_is_made_for_what_is_wanted_and_never_of_what_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let there = |model: Model| dir.path().join(model.as_str()).exists();
    for model in Model::ALL {
        fs::create_dir(dir.path().join(model.as_str())).unwrap();
    }
    // More than any disk has.
    let greedy = cache(dir.path(), 1_000_000_000).await;
    greedy.loaded(FIRST);
    let pack = tiny(SECOND);
    assert!(!greedy.make_room(&pack, false).await.unwrap());
    assert!(Model::ALL.into_iter().all(there), "nobody waits for it");
    let error = greedy.make_room(&pack, true).await.unwrap_err();
    assert_eq!(error.code(), "no_room");
    assert_eq!(Model::ALL.map(there), [true, true, false]);
    let content = cache(dir.path(), 0).await;
    assert!(content.make_room(&pack, true).await.unwrap());
    assert!(there(FIRST));
}

#[tokio::test]
async fn what_was_used_least_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    for model in Model::ALL {
        fs::create_dir(dir.path().join(model.as_str())).unwrap();
    }
    let cache = cache(dir.path(), 0).await;
    assert_eq!(
        cache.least_used(FIRST),
        Some(THIRD),
        "it is none of this worker's"
    );
    cache.loaded(SECOND);
    cache.loaded(THIRD);
    assert_eq!(cache.least_used(FIRST), Some(SECOND), "THIRD is loaded");
    cache.loaded(FIRST);
    assert_eq!(cache.least_used(THIRD), Some(SECOND));
}

#[test]
fn what_is_here_already_need_not_be_made_room_for() {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/wan/packs/tiny");
    let pack = tiny(SECOND);
    assert_eq!(room::missing_bytes(&packs, &pack), 0);
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(
        room::missing_bytes(nothing.path(), &pack),
        pack.index.bytes()
    );
}
