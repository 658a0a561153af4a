//! Packs from the bucket to the disk and back, against the local cloud.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use scene::*;
use spotreel_domain::model::Model;
use spotreel_localcloud::{Action, Rule};
use spotreel_packs::*;
use tokio::sync::watch;

fn same_files(a: &Pack, b: &Pack) {
    assert_eq!(a.sha256, b.sha256);
    for file in &a.index.files {
        let read = |pack: &Pack| fs::read(pack.path(file)).unwrap();
        assert!(read(a) == read(b), "{}", file.path);
    }
}

/// What a directory of packs holds beside whole packs.
fn leftovers(packs: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![packs.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            match path.is_dir() {
                true => folders.push(path),
                false if name.ends_with(".part") || name.contains(".incoming") => found.push(name),
                false => {}
            }
        }
    }
    found
}

#[tokio::test]
async fn a_pack_goes_there_and_back() {
    let s = Scene::new().await;
    for model in Model::ALL {
        let pushed = s.push(model, Weights::default()).await;
        // Ranges that end within files, at their ends, and not at all.
        for (window, range_bytes) in [(3, 10_007), (16, 8 << 20), (1, 300_000)] {
            let options = PullOptions {
                window,
                range_bytes,
                ..PullOptions::default()
            };
            let pulled = s.pull_with(model, &options).await.unwrap();
            same_files(&pushed, &pulled);
            assert!(pulled.is_verified());
            assert_eq!(pulled.dir, s.path("packs").join(model.as_str()));
            fs::remove_dir_all(&pulled.dir).unwrap();
        }
    }
    assert_eq!(leftovers(&s.path("packs")), [""; 0]);
}

#[tokio::test]
async fn a_whole_pack_is_neither_fetched_nor_read_again() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let pulled = s.pull(T2V).await.unwrap();
    // Nobody but a reader of every byte would see this.
    let path = pulled.dir.join(HIGH);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::File::open(&path).unwrap().set_modified(before).unwrap();
    s.count();
    s.pull(T2V).await.unwrap();
    assert_eq!(s.counted(), 0);
    // With another time of change it is read, and fetched anew.
    let later = before + Duration::from_secs(1);
    fs::File::open(&path).unwrap().set_modified(later).unwrap();
    assert!(!pulled.is_verified());
    s.pull(T2V).await.unwrap();
    assert_eq!(s.counted(), 1);
    verify(&pulled.dir, |_| ()).unwrap();
}

#[tokio::test]
async fn a_part_is_gone_on_with_and_a_bad_part_is_not_believed() {
    let s = Scene::new().await;
    let pushed = s.push(T2V, Weights::default()).await;
    let pulled = s.pull(T2V).await.unwrap();
    let whole = fs::read(pulled.dir.join(HIGH)).unwrap();
    let options = PullOptions {
        range_bytes: 100_000,
        ..PullOptions::default()
    };
    let part = pulled.dir.join(format!("{HIGH}.part"));
    // How much is there, whether it is right, and how many ranges are asked for then.
    for (there, right, ranges) in [
        (0, true, 4),
        (250_001, true, 1),
        (whole.len(), true, 0),
        (250_001, false, 1 + 4),
        (whole.len(), false, 4),
    ] {
        fs::remove_file(pulled.dir.join(HIGH)).unwrap();
        let mut bytes = whole[..there].to_vec();
        if !right {
            bytes[77] ^= 1;
        }
        fs::write(&part, bytes).unwrap();
        s.count();
        same_files(&pushed, &s.pull_with(T2V, &options).await.unwrap());
        assert_eq!(s.counted(), ranges, "{there} {right}");
    }
    // More than the file has.
    fs::remove_file(pulled.dir.join(HIGH)).unwrap();
    fs::write(&part, [&whole[..], b"x"].concat()).unwrap();
    same_files(&pushed, &s.pull(T2V).await.unwrap());
    assert_eq!(leftovers(&s.path("packs")), [""; 0]);
}

#[tokio::test]
async fn what_another_pack_has_is_linked() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let other = Weights {
        experts: 20,
        ..Weights::default()
    };
    let pushed = s.push(Model::I2vA14b, other).await;
    let first = s.pull(T2V).await.unwrap();
    s.count();
    let second = s.pull(Model::I2vA14b).await.unwrap();
    same_files(&pushed, &second);
    let inode = |pack: &Pack, path: &str| fs::metadata(pack.dir.join(path)).unwrap().ino();
    for shared in ["text_encoder/model.safetensors", "vae/config.json"] {
        assert_eq!(inode(&first, shared), inode(&second, shared), "{shared}");
    }
    assert_ne!(inode(&first, HIGH), inode(&second, HIGH));
    // Two experts, and those small files that say what model it is.
    assert_eq!(s.counted(), 2 + 3);
}

#[tokio::test]
async fn the_bucket_holds_what_packs_share_once() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let made = s.made(Model::I2vA14b, Weights::default());
    let pushed = s.remote.push(&made.dir, |_| ()).await.unwrap();
    assert_eq!(pushed.sent, 2, "only what says which model it is");
    let again = s.remote.push(&made.dir, |_| ()).await.unwrap();
    assert_eq!((again.sent, again.sent_bytes), (0, 0));
    // A file that has changed since is not what pack.json says.
    fs::write(made.dir.join(HIGH), b"other").unwrap();
    let refused = s.remote.push(&made.dir, |_| ()).await.unwrap_err();
    assert!(
        matches!(&refused, PushError::Pack(PackError::Truncated { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_new_version_takes_the_old_ones_place_whole() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let old = s.pull(T2V).await.unwrap();
    let open = fs::File::open(old.dir.join(HIGH)).unwrap();
    let next = Weights {
        experts: 40,
        ..Weights::default()
    };
    let pushed = s.push(T2V, next).await;
    // It breaks in the middle: the old one stays whole.
    let key = s.blob(&pushed, LATE);
    s.store.delete(&key).await.unwrap();
    let options = PullOptions::default();
    let packs = s.path("packs");
    let (told, progress) = watch::channel(Progress::default());
    let broken = s.remote.pull(T2V, &packs, &options, told).await;
    assert_eq!(broken.unwrap_err().code(), "missing_file");
    assert_eq!(progress.borrow().loadable(), None, "it is not in place yet");
    assert!(old.is_verified());
    let late = fs::read(pushed.dir.join(LATE)).unwrap();
    s.replace(&key, late).await;
    s.count();
    let new = s.pull(T2V).await.unwrap();
    assert_eq!(s.counted(), 1, "the rest was kept, or linked");
    same_files(&pushed, &new);
    assert_eq!(new.dir, old.dir);
    assert!(!old.is_verified());
    // Whoever had it open goes on reading it.
    use std::os::unix::fs::FileExt;
    let mut head = [0; 200_000];
    open.read_exact_at(&mut head, 10_000).unwrap();
    assert_ne!(
        head.to_vec(),
        fs::read(new.dir.join(HIGH)).unwrap()[10_000..210_000]
    );
    assert_eq!(leftovers(&packs), [""; 0]);
    assert_eq!(fs::read_dir(packs.join(".incoming")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_engine_may_begin_when_only_the_low_noise_expert_is_missing() {
    let s = Scene::new().await;
    let pushed = s.push(T2V, Weights::default()).await;
    let slow = Rule {
        key_prefix: Some(s.blob(&pushed, LATE)),
        delay_ms: 400,
        ..Rule::new("GetObject", Action::Delay)
    };
    s.cloud.fail(vec![slow]);
    let (told, mut progress) = watch::channel(Progress::default());
    let (remote, packs) = (s.remote.clone(), s.path("packs"));
    let pulling = tokio::spawn(async move {
        let options = PullOptions::default();
        remote.pull(T2V, &packs, &options, told).await
    });
    let loadable = progress.wait_for(|progress| progress.loadable().is_some());
    let (pack, arriving) = loadable.await.unwrap().loadable().unwrap();
    assert_eq!(arriving, [LATE]);
    for file in &pack.index.files {
        assert_eq!(pack.path(file).exists(), file.path != LATE, "{}", file.path);
    }
    pulling.await.unwrap().unwrap();
    assert!(pack.is_verified());
    let last = progress.borrow().clone();
    assert_eq!(last.missing, [""; 0]);
    assert_eq!(last.bytes_done, last.bytes_total);
    assert_eq!(last.bytes_total, pushed.index.bytes());
}

#[tokio::test]
async fn two_pullers_take_turns() {
    let s = Scene::new().await;
    let pushed = s.push(T2V, Weights::default()).await;
    let options = PullOptions {
        range_bytes: 50_000,
        ..PullOptions::default()
    };
    let slow = Rule {
        key_prefix: Some(format!("{PREFIX}blobs/")),
        delay_ms: 30,
        ..Rule::new("GetObject", Action::Delay)
    };
    s.cloud.fail(vec![slow]);
    let (one, two) = tokio::join!(s.pull_with(T2V, &options), s.pull_with(T2V, &options));
    same_files(&one.unwrap(), &two.unwrap());
    let ranges = pushed.index.files.iter();
    let ranges: u64 = ranges.map(|file| file.bytes.div_ceil(50_000).max(1)).sum();
    assert_eq!(s.counted(), ranges, "nothing was fetched twice");
}

#[tokio::test]
async fn a_dropped_pull_is_gone_on_with() {
    let s = Scene::new().await;
    let pushed = s
        .push(
            T2V,
            Weights {
                bytes: 2_000_000,
                ..Weights::default()
            },
        )
        .await;
    let options = PullOptions {
        window: 1,
        range_bytes: 100_000,
        keep_free: 0,
    };
    let slow = Rule {
        key_prefix: Some(format!("{PREFIX}blobs/")),
        delay_ms: 20,
        ..Rule::new("GetObject", Action::Delay)
    };
    let pieces: u64 = {
        let files = pushed.index.files.iter();
        files.map(|file| file.bytes.div_ceil(100_000).max(1)).sum()
    };
    let mut asked = 0;
    let mut ended = 0;
    loop {
        s.cloud.fail(vec![slow.clone()]);
        let pull = s.pull_with(T2V, &options);
        let pulled = tokio::time::timeout(Duration::from_millis(450), pull).await;
        asked += s.counted();
        match pulled {
            Ok(pulled) => {
                same_files(&pushed, &pulled.unwrap());
                break;
            }
            Err(_) => ended += 1,
        }
        assert!(ended < 60, "it gets nowhere");
    }
    assert!(ended > 0);
    // One range is under way when it is dropped, and one may wait for the disk.
    assert!(
        asked <= pieces + 2 * ended,
        "{asked} of {pieces}, {ended} times"
    );
}

#[tokio::test]
async fn passing_faults_are_survived() {
    let s = Scene::new().await;
    let pushed = s.push(T2V, Weights::default()).await;
    for action in [Action::InternalError, Action::SlowDown, Action::Reset] {
        let rule = Rule {
            times: Some(5),
            probability: 0.5,
            ..Rule::new("GetObject", action)
        };
        s.cloud.fail(vec![rule]);
        let options = PullOptions {
            range_bytes: 20_000,
            ..PullOptions::default()
        };
        let pulled = s.pull_with(T2V, &options).await.unwrap();
        same_files(&pushed, &pulled);
        assert_eq!(s.cloud.faults().report()[0].fired, 5);
        fs::remove_dir_all(&pulled.dir).unwrap();
    }
}

#[tokio::test]
async fn what_the_bucket_has_wrong_is_told() {
    let s = Scene::new().await;
    let pushed = s.push(T2V, Weights::default()).await;
    let key = s.blob(&pushed, HIGH);
    let right = fs::read(pushed.dir.join(HIGH)).unwrap();
    let mut wrong = right.clone();
    wrong[1000] ^= 1;
    for (body, code) in [
        (wrong, "sha256_mismatch"),
        (right[..100_000].to_vec(), "truncated"),
        (Vec::new(), "truncated"),
    ] {
        s.replace(&key, body).await;
        let error = s.pull(T2V).await.unwrap_err();
        assert_eq!((error.code(), error.retryable()), (code, false), "{error}");
        let dir = s.path("packs").join("t2v-A14B");
        assert!(!dir.join(HIGH).exists());
        assert_eq!(
            Pack::open(&dir).unwrap().measure().unwrap_err().code(),
            "missing_file"
        );
    }
    s.store.delete(&key).await.unwrap();
    let error = s.pull(T2V).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("missing_file", false));
    // It has kept what was right: one range brings the rest.
    s.replace(&key, right).await;
    s.count();
    same_files(&pushed, &s.pull(T2V).await.unwrap());
    assert!(s.counted() <= 2, "{}", s.counted());
}

#[tokio::test]
async fn bad_pointers_are_refused() {
    let s = Scene::new().await;
    let error = s.pull(T2V).await.unwrap_err();
    assert_eq!(error.code(), "no_pack");
    assert!(
        error.to_string().contains("spotreel models push"),
        "{error}"
    );
    let pushed = s.push(T2V, Weights::default()).await;
    let text = fs::read_to_string(pushed.dir.join(INDEX)).unwrap();
    let pointer = format!("{PREFIX}t2v-A14B/{INDEX}");
    for (from, to, code) in [
        ("wanpack/1", "wanpack/9", "bad_index"),
        (
            "\"model\": \"t2v-A14B\"",
            "\"model\": \"i2v-A14B\"",
            "wrong_model",
        ),
        ("model_index.json", "../model_index.json", "bad_index"),
        ("model_index.json", "/etc/model_index.json", "bad_index"),
        ("model_index.json", "model_index.bin", "not_safetensors"),
        ("model_index.json", ".verified", "bad_index"),
        ("vae/config.json", "vae/konfig.json", "missing_file"),
    ] {
        assert!(text.contains(from), "{from}");
        s.replace(&pointer, text.replacen(from, to, 1).into_bytes())
            .await;
        let error = s.pull(T2V).await.unwrap_err();
        assert_eq!(error.code(), code, "{to}: {error}");
        assert!(!s.path("packs").join("t2v-A14B").exists(), "{to}");
    }
}

#[tokio::test]
async fn no_room_is_told_before_anything_is_fetched() {
    let s = Scene::new().await;
    s.push(T2V, Weights::default()).await;
    let options = PullOptions {
        keep_free: u64::MAX,
        ..PullOptions::default()
    };
    s.count();
    let error = s.pull_with(T2V, &options).await.unwrap_err();
    assert_eq!((error.code(), s.counted()), ("no_room", 0), "{error}");
}
