//! What a pull of weights costs beside one plain download: ranges, hash, flush and rename, and a kill in the middle.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use spotreel_domain::model::Model;
use spotreel_packs::{Compute, PREFIX, Pack, PackRecipe, Progress, PullOptions, Remote, make};
use spotreel_s3::Store;
use spotreel_tests::harness::cloud::CloudProgram;
use spotreel_tests::harness::program::binary;
use spotreel_tests::harness::{eventually, root};
use tempfile::TempDir;
use tokio::sync::watch;

use super::figure::Figure;
use super::samples::Samples;

const GOAL: f64 = 0.8;
const MODEL: Model = Model::T2vA14b;
/// Of the one large file; the others have 0.2 MB.
const BYTES: usize = 1 << 30;
const LARGE: &str = "transformer/diffusion_pytorch_model.safetensors";
/// One more is made and not counted.
const ROUNDS: usize = 3;
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(300);

pub async fn run() -> Vec<Figure> {
    let cloud = CloudProgram::start().await;
    let store = cloud.store().await;
    let remote = Remote::new(store.clone(), PREFIX);
    let dir = TempDir::with_prefix("spotreel-packs-").expect("a directory can be made");
    let key = publish(&remote, dir.path()).await;
    let (mut raw, mut ours) = (Samples::default(), Samples::default());
    let (mut resumed, mut whole) = (Samples::default(), Samples::default());
    for round in 0..=ROUNDS {
        let alone = download(&store, &key, dir.path()).await;
        let pulled = pull(&remote, dir.path()).await;
        forget(dir.path());
        killed_half_way(&cloud, dir.path()).await;
        let rest = pull(&remote, dir.path()).await;
        forget(dir.path());
        if round > 0 {
            raw.add(rate(alone));
            ours.add(rate(pulled));
            whole.add(pulled.as_secs_f64());
            resumed.add(rest.as_secs_f64());
        }
    }
    let setting = format!(
        "MB/s from the local cloud over loopback to this disk, 1 GiB of weights: 16 ranges of 8 MiB in flight, hashed, flushed, \
         renamed, against one GET streamed into a file and flushed, unhashed; p50 of {ROUNDS}, in turn"
    );
    let after = format!(
        "seconds of a pull after one that was killed at half of it, which hashes what is there, out of the page cache, and fetches \
         the rest; against a whole pull; p50 of {ROUNDS}"
    );
    vec![
        Figure::rate(
            "a pack pulled / one plain GET, MB/s",
            ours.p50(),
            raw.p50(),
            Some(GOAL),
            setting,
        ),
        Figure::new(
            "a pull after a kill half way / a whole one, s",
            resumed.p50(),
            whole.p50(),
            None,
            after,
        ),
    ]
}

/// The tiny pack with one large file, in the bucket; the key of that file.
async fn publish(remote: &Remote, dir: &Path) -> String {
    let (from, made) = (dir.join("from"), dir.join("made"));
    let tiny = root()
        .join("worker/engines/wan/packs/tiny")
        .join(MODEL.as_str());
    let copied = Command::new("cp").arg("-r").arg(tiny).arg(&from).status();
    assert!(copied.expect("cp is there").success());
    write_weights(&from.join(LARGE)).expect("it can be written");
    let recipe = PackRecipe {
        model: MODEL,
        compute: Compute::Bfloat16,
        source: Map::new(),
        license: "none".to_owned(),
        fast: None,
    };
    let pack = make(&from, &made, &recipe, |_| ()).expect("it can be packed");
    remote.push(&made, |_| ()).await.expect("it can be sent");
    let mut files = pack.index.files.iter();
    let large = files.find(|file| file.path == LARGE).expect("it is listed");
    let key = format!("{PREFIX}blobs/{}", large.sha256);
    for done in [from, made] {
        fs::remove_dir_all(done).expect("it is ours");
    }
    key
}

/// Bytes that no file system could leave out.
fn write_weights(path: &Path) -> std::io::Result<()> {
    let head = json!({"noise": {"dtype": "U8", "shape": [BYTES], "data_offsets": [0, BYTES]}});
    let head = head.to_string();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(head.len() as u64).to_le_bytes())?;
    out.write_all(head.as_bytes())?;
    for at in 0..BYTES as u64 / 8 {
        out.write_all(&at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
    }
    out.flush()
}

async fn download(store: &Store, key: &str, dir: &Path) -> Duration {
    let url = store.presign_get(key, None, DOWNLOAD_WITHIN).await;
    let url = url.expect("a link can be signed");
    let path = dir.join("plain");
    let began = Instant::now();
    let answer = reqwest::get(url.url).await.expect("the store answers");
    let mut answer = answer.error_for_status().expect("the object is there");
    let mut out = tokio::fs::File::create(&path)
        .await
        .expect("it can be made");
    while let Some(chunk) = answer.chunk().await.expect("the body is whole") {
        let written = tokio::io::AsyncWriteExt::write_all(&mut out, &chunk).await;
        written.expect("it can be written");
    }
    out.sync_all().await.expect("it can be flushed");
    let took = began.elapsed();
    fs::remove_file(path).expect("it is ours");
    took
}

fn packs(dir: &Path) -> PathBuf {
    dir.join("packs")
}

async fn pull(remote: &Remote, dir: &Path) -> Duration {
    let (told, _) = watch::channel(Progress::default());
    let began = Instant::now();
    let options = PullOptions::default();
    let pulled = remote.pull(MODEL, &packs(dir), &options, told).await;
    let pack = pulled.expect("the pack comes");
    let took = began.elapsed();
    assert!(Pack::is_verified(&pack));
    took
}

fn forget(dir: &Path) {
    fs::remove_dir_all(packs(dir)).expect("it is ours");
}

/// A real program that is killed when half of the file is there, and its part out of the page cache.
async fn killed_half_way(cloud: &CloudProgram, dir: &Path) {
    let mut pulling: Child = Command::new(binary("spotreel"))
        .args(["models", "pull", MODEL.as_str(), "--packs"])
        .arg(packs(dir))
        .env("AWS_ENDPOINT_URL", &cloud.access.endpoint)
        .envs(cloud.access.keys())
        .env("SPOTREEL_BUCKET", &cloud.access.bucket)
        .stdout(Stdio::null())
        .spawn()
        .expect("it can be run");
    let part = packs(dir)
        .join(MODEL.as_str())
        .join(format!("{LARGE}.part"));
    let half = BYTES as u64 / 2;
    eventually("half of it is there", DOWNLOAD_WITHIN, || {
        let there = fs::metadata(&part).map_or(0, |part| part.len());
        async move { (there >= half).then_some(()) }
    })
    .await;
    pulling.kill().expect("it is our child");
    pulling.wait().expect("it is our child");
    let part = File::open(part).expect("a kill leaves it");
    part.sync_all().expect("it can be flushed");
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(&part, 0, 0, advice).expect("the kernel takes it");
}

fn rate(took: Duration) -> f64 {
    BYTES as f64 / 1e6 / took.as_secs_f64()
}
