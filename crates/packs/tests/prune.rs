//! What no pack names leaves the bucket, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use scene::*;
use spotreel_domain::model::Model;
use spotreel_localcloud::{Action, Rule};
use spotreel_packs::*;
use spotreel_s3::ListedObject;
use tokio_util::sync::CancellationToken;

const LOCK: &str = "models/prune.lock";
const SOON: Duration = Duration::from_secs(60);

fn next() -> Weights {
    Weights {
        experts: 40,
        ..Weights::default()
    }
}

impl Scene {
    async fn listed(&self) -> Vec<ListedObject> {
        self.store.list("").await.unwrap()
    }

    async fn keys(&self) -> BTreeSet<String> {
        let listed = self.listed().await;
        listed.into_iter().map(|object| object.key).collect()
    }

    /// After everything that was written so far.
    async fn later(&self) -> SystemTime {
        let listed = self.listed().await;
        let newest = listed.iter().filter_map(|object| object.last_modified);
        newest.max().unwrap() + Duration::from_secs(1)
    }

    async fn prune(&self, before: SystemTime) -> Result<Unused, PruneError> {
        let stop = CancellationToken::new();
        self.remote.prune(before, "a test", &stop).await
    }

    /// Under their keys, as the bucket has them.
    fn blobs(&self, pack: &Pack) -> BTreeSet<String> {
        let files = pack.index.files.iter();
        files.map(|file| self.blob(pack, &file.path)).collect()
    }
}

/// The old version's experts alone are named by nobody: both that were pushed, in a bucket with another model.
async fn two_versions() -> (Scene, BTreeSet<String>) {
    let s = Scene::new().await;
    s.push(
        Model::I2vA14b,
        Weights {
            experts: 7,
            ..Weights::default()
        },
    )
    .await;
    let old = s.push(T2V, Weights::default()).await;
    s.push(T2V, next()).await;
    let unnamed = [HIGH, LATE].map(|path| s.blob(&old, path));
    (s, BTreeSet::from(unnamed))
}

fn keys_of(blobs: &[ListedObject]) -> BTreeSet<String> {
    blobs.iter().map(|blob| blob.key.clone()).collect()
}

#[tokio::test]
async fn what_only_an_old_version_named_goes() {
    let (s, unnamed) = two_versions().await;
    // Not ours: whatever is no blob by its name.
    s.replace("models/blobs/README", b"hands off".to_vec())
        .await;
    let (before, later) = (s.keys().await, s.later().await);
    let seen = s.remote.unused(later).await.unwrap();
    assert_eq!(s.keys().await, before, "a look removes nothing");
    let pruned = s.prune(later).await.unwrap();
    assert_eq!(pruned, seen);
    assert_eq!((pruned.packs, &pruned.waiting[..]), (2, &[][..]));
    assert_eq!(keys_of(&pruned.blobs), unnamed);
    assert_eq!(s.keys().await, &before - &unnamed);
    for model in [T2V, Model::I2vA14b] {
        s.pull(model).await.unwrap();
    }
    let again = s.prune(later).await.unwrap();
    assert_eq!((again.blobs.len(), again.packs), (0, 2));
}

#[tokio::test]
async fn what_is_young_waits_and_so_does_what_a_young_index_replaced() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let before = s.later().await;
    // A push under way: its blobs are there and its index is not.
    let made = s.made(
        Model::Ti2v5b,
        Weights {
            experts: 9,
            ..Weights::default()
        },
    );
    while s.later().await < before + Duration::from_secs(1) {
        s.replace("clock", Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let key = s.blob(&made, HIGH);
    s.replace(&key, fs::read(made.dir.join(HIGH)).unwrap())
        .await;
    let pruned = s.prune(before).await.unwrap();
    assert_eq!(pruned.blobs, []);
    assert_eq!(keys_of(&pruned.waiting), BTreeSet::from([key.clone()]));

    // The first version's experts are old, but until now an index named them.
    s.push(T2V, next()).await;
    let pruned = s.prune(before).await.unwrap();
    assert_eq!((pruned.blobs.len(), pruned.waiting.len()), (0, 3));
    assert!(s.keys().await.contains(&key));
    let pruned = s.prune(s.later().await).await.unwrap();
    assert_eq!((pruned.blobs.len(), pruned.waiting.len()), (3, 0));
}

#[tokio::test]
async fn a_model_that_nobody_here_knows_keeps_its_blobs() {
    let (s, unnamed) = two_versions().await;
    let pointer = format!("{PREFIX}t2v-A14B/{INDEX}");
    let text = s.store.get_bytes(&pointer, 1 << 20).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let future = text.replace("t2v-A14B", "wan3-A99B");
    s.replace("models/wan3-A99B/pack.json", future.into_bytes())
        .await;
    s.store.delete(&pointer).await.unwrap();
    let pruned = s.prune(s.later().await).await.unwrap();
    assert_eq!((pruned.packs, keys_of(&pruned.blobs)), (2, unnamed));
}

#[tokio::test]
async fn an_index_that_cannot_be_read_keeps_everything() {
    let (s, unnamed) = two_versions().await;
    let later = s.later().await + SOON;
    let hash = "0".repeat(64);
    let right = format!(
        r#"{{"format": "wanpack/1", "files": [{{"path": "a", "bytes": 1, "sha256": "{hash}"}}]}}"#
    );
    for (wrong, said) in [
        ("{".to_owned(), "EOF"),
        (right.replace("wanpack/1", "wanpack/2"), "wanpack/2"),
        (right.replace(&hash, "abc"), "SHA-256"),
        (right.replace("files", "parts"), "files"),
    ] {
        s.replace("models/x/pack.json", wrong.into_bytes()).await;
        let error = s.prune(later).await.unwrap_err();
        let PruneError::Index(source) = &error else {
            panic!("{error:?}");
        };
        let source = source.to_string();
        assert!(
            source.contains("models/x/pack.json") && source.contains(said),
            "{source}"
        );
    }
    s.cloud.fail(vec![Rule {
        key_prefix: Some("models/x/".to_owned()),
        ..Rule::new("GetObject", Action::InternalError)
    }]);
    let error = s.prune(later).await.unwrap_err();
    assert!(matches!(error, PruneError::Get { .. }), "{error:?}");
    s.cloud.faults().clear();
    s.replace("models/x/pack.json", right.into_bytes()).await;
    assert_eq!(keys_of(&s.prune(later).await.unwrap().blobs), unnamed);
}

#[tokio::test]
async fn a_bucket_without_packs_is_left_to_a_person() {
    let s = Scene::new().await;
    let nothing = s.prune(SystemTime::UNIX_EPOCH).await.unwrap();
    assert_eq!((nothing.packs, nothing.blobs.len()), (0, 0));
    let pack = s.push(T2V, Weights::default()).await;
    s.store.delete("models/t2v-A14B/pack.json").await.unwrap();
    let error = s.prune(s.later().await).await.unwrap_err();
    assert!(matches!(error, PruneError::NoPack { .. }), "{error:?}");
    assert_eq!(s.keys().await, s.blobs(&pack));
}

#[tokio::test]
async fn an_upload_that_never_ended_goes() {
    let s = Scene::new().await;
    let big = Weights {
        bytes: 17 << 20,
        ..Weights::default()
    };
    let made = s.made(T2V, big);
    // Cut off within the parts of its first large file, and not even the abort gets through.
    s.cloud.fail(vec![
        Rule::new("UploadPart", Action::InternalError),
        Rule::new("AbortMultipartUpload", Action::InternalError),
    ]);
    s.remote.push(&made.dir, |_| ()).await.unwrap_err();
    s.cloud.faults().clear();
    s.push(Model::Ti2v5b, Weights::default()).await;
    let begun = s.store.list_unfinished(PREFIX).await.unwrap();
    assert_eq!(begun.len(), 1);
    let at = begun[0].begun.unwrap();
    let young = s.prune(at - Duration::from_secs(1)).await.unwrap();
    assert_eq!(young.uploads, []);
    let pruned = s.prune(at + SOON).await.unwrap();
    assert_eq!(pruned.uploads, begun);
    assert_eq!(s.store.list_unfinished("").await.unwrap(), []);
    let pushed = s.remote.push(&made.dir, |_| ()).await.unwrap();
    assert!(pushed.sent >= 2, "{}", pushed.sent);
    s.pull(T2V).await.unwrap();
}

/// The prune has read the indexes when the push finds the old version's blobs, and removes them after the push has made
/// that version the current one.
#[tokio::test]
async fn a_push_that_meets_a_prune_sends_again_what_it_took() {
    let (s, unnamed) = two_versions().await;
    let later = s.later().await;
    let made = s.made(T2V, Weights::default());
    let slow = Rule {
        delay_ms: 3000,
        ..Rule::new("DeleteObjects", Action::Delay)
    };
    s.cloud.fail(vec![slow]);
    let pruning = {
        let remote = s.remote.clone();
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            let pruned = remote.prune(later, "a test", &stop).await;
            pruned.unwrap()
        })
    };
    let deletes = async {
        while s.counted() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, deletes).await.unwrap();
    let pushed = s.remote.push(&made.dir, |_| ()).await.unwrap();
    assert_eq!(keys_of(&pruning.await.unwrap().blobs), unnamed);
    assert_eq!(pushed.sent, 2, "found at first, and missing then");
    assert_eq!(s.pull(T2V).await.unwrap().sha256, made.sha256);
}

#[tokio::test]
async fn the_lock_is_one_prunes_alone_and_gone_after_it() {
    let (s, unnamed) = two_versions().await;
    let later = s.later().await + SOON;
    s.replace(LOCK, b"process 7 on a host".to_vec()).await;
    let error = s.prune(later).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains(LOCK) && said.contains("process 7 on a host"),
        "{said}"
    );
    s.remote.unused(later).await.unwrap();
    assert!(unnamed.is_subset(&s.keys().await));
    s.store.delete(LOCK).await.unwrap();

    // Told to end, failed, and with a first answer that was lost.
    let stop = CancellationToken::new();
    stop.cancel();
    let error = s.remote.prune(later, "a test", &stop).await.unwrap_err();
    assert!(matches!(error, PruneError::Stopped), "{error:?}");
    assert!(!s.keys().await.contains(LOCK));
    s.cloud
        .fail(vec![Rule::new("DeleteObjects", Action::InternalError)]);
    let error = s.prune(later).await.unwrap_err();
    assert!(matches!(error, PruneError::Delete(_)), "{error:?}");
    assert!(!s.keys().await.contains(LOCK) && unnamed.is_subset(&s.keys().await));
    s.cloud.fail(vec![Rule {
        times: Some(1),
        after: true,
        ..Rule::new("PutObject", Action::Reset)
    }]);
    assert_eq!(keys_of(&s.prune(later).await.unwrap().blobs), unnamed);
    assert!(!s.keys().await.contains(LOCK));
}
