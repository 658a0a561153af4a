use std::fs;

use spotreel_packs::RemoteError;

use super::*;

const FIRST: Model = Model::Ti2v5b;
const SECOND: Model = Model::T2vA14b;
const THIRD: Model = Model::I2vA14b;
const SOON: Duration = Duration::from_millis(50);

/// Asks no bucket of anything.
async fn keeper(dir: &Path, keep_free_gb: u64) -> Keeper {
    let section = PacksSection {
        dir: dir.display().to_string(),
        bucket: String::new(),
        prefix: "models/".into(),
        connections: 1,
        keep_free_gb,
    };
    let s3 = StoreConfig::at("http://127.0.0.1:9", "us-east-1", "b");
    let remote = remote(&section, &s3).await;
    Keeper::of(&section, &[FIRST, SECOND], &remote).unwrap()
}

fn tiny(model: Model) -> Pack {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/wan/packs/tiny");
    Pack::open(&packs.join(model.as_str())).unwrap()
}

fn here(keeper: &Keeper, model: Model, arriving: &[&str]) {
    let pack = Arc::new(tiny(model));
    let arriving = arriving.iter().map(PathBuf::from).collect();
    keeper.stand(model, Standing::Here(Here { pack, arriving }));
}

fn missing(keeper: &Keeper, model: Model) {
    let bucket = "b".into();
    keeper.failed(model, &RemoteError::NoPack { bucket, model }.into());
}

fn next(keeper: &Keeper) -> Next {
    keeper.next(&BTreeSet::new())
}

#[tokio::test]
async fn first_in_order_then_what_a_task_wants_then_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), 0).await;
    assert_eq!(next(&keeper), Next::Wanted(FIRST), "nothing is here yet");
    let waits = keeper.ready(SECOND, SOON).await;
    assert_eq!(waits.unwrap_err().code, CODE);
    assert_eq!(next(&keeper), Next::Wanted(SECOND));
    here(&keeper, SECOND, &["late"]);
    assert_eq!(next(&keeper), Next::Wanted(SECOND), "a file is missing");
    assert_eq!(keeper.ready(SECOND, SOON).await.unwrap().arriving.len(), 1);
    here(&keeper, SECOND, &[]);
    assert_eq!(next(&keeper), Next::Ahead(FIRST));
    assert_eq!(keeper.next(&BTreeSet::from([FIRST])), Next::Nothing);
    here(&keeper, FIRST, &[]);
    assert_eq!(next(&keeper), Next::Nothing);
}

#[tokio::test]
async fn a_pack_that_does_not_come_is_told_at_once_and_tasks_of_it_are_left_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), 0).await;
    missing(&keeper, FIRST);
    assert_eq!(
        next(&keeper),
        Next::Wanted(SECOND),
        "the other is tried meanwhile"
    );
    let failure = keeper
        .ready(FIRST, Duration::from_secs(60))
        .await
        .unwrap_err();
    assert_eq!(
        (failure.kind, failure.code.as_str()),
        (ErrorKind::Model, CODE)
    );
    assert!(
        failure.message.contains("no pack of ti2v-5B"),
        "{}",
        failure.message
    );
    assert!(!keeper.may_come(FIRST) && keeper.may_come(SECOND));
    let health = Health::new();
    keeper.tell(&health);
    assert!(!health.readiness().ready);
    here(&keeper, SECOND, &["late"]);
    keeper.tell(&health);
    assert!(health.readiness().ready, "one of two can be rendered");
    let gives_up = forsaken(Some(&keeper), Some(SECOND));
    assert!(tokio::time::timeout(SOON, gives_up).await.is_err());
    missing(&keeper, SECOND);
    assert_eq!(forsaken(Some(&keeper), Some(SECOND)).await.code, CODE);
}

#[tokio::test]
async fn room_is_made_for_what_is_wanted_and_never_of_what_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let there = |model: Model| dir.path().join(model.as_str()).exists();
    for model in Model::ALL {
        fs::create_dir(dir.path().join(model.as_str())).unwrap();
    }
    // More than any disk has.
    let greedy = keeper(dir.path(), 1_000_000_000).await;
    greedy.loaded(FIRST);
    let pack = tiny(SECOND);
    assert!(!greedy.make_room(&pack, false).await.unwrap());
    assert!(Model::ALL.into_iter().all(there), "nobody waits for it");
    let error = greedy.make_room(&pack, true).await.unwrap_err();
    assert_eq!(error.code(), "no_room");
    assert_eq!(Model::ALL.map(there), [true, true, false]);
    let content = keeper(dir.path(), 0).await;
    assert!(content.make_room(&pack, true).await.unwrap());
    assert!(there(FIRST));
}

#[tokio::test]
async fn what_was_used_least_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    for model in Model::ALL {
        fs::create_dir(dir.path().join(model.as_str())).unwrap();
    }
    let keeper = keeper(dir.path(), 0).await;
    assert_eq!(
        keeper.least_used(FIRST),
        Some(THIRD),
        "it is none of this worker's"
    );
    keeper.loaded(SECOND);
    keeper.loaded(THIRD);
    assert_eq!(keeper.least_used(FIRST), Some(SECOND), "THIRD is loaded");
    keeper.loaded(FIRST);
    assert_eq!(keeper.least_used(THIRD), Some(SECOND));
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
