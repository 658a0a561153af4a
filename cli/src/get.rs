//! A finished video, into a file.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use spotreel_bus::names;
use spotreel_domain::api::{TaskRef, TaskView, Video};
use spotreel_domain::request::hex;
use tempfile::NamedTempFile;

use crate::args::GetArgs;
use crate::connection::{Api, Settings};
use crate::{Done, print};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A download may take long; silence in it may not.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Fetched<'a> {
    id: &'a str,
    path: PathBuf,
    bytes: u64,
    sha256: &'a str,
}

pub async fn run(settings: &Settings, args: GetArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let task: TaskView = api.call(names::GET, &TaskRef { id: args.id }).await?;
    let Some(video) = &task.video else {
        bail!("{}", without_video(&task))
    };
    let path = args
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{}.mp4", task.id)));
    download(video, &path).await?;
    if args.json {
        print::json(&Fetched {
            id: task.id.as_str(),
            path,
            bytes: video.artifact.bytes,
            sha256: &video.artifact.sha256,
        });
    } else {
        print::line(&path.display().to_string());
    }
    Ok(Done::Well)
}

fn without_video(task: &TaskView) -> String {
    let id = &task.id;
    match (&task.error, task.state.as_str()) {
        (Some(error), _) => format!(
            "task {id} failed: {}\ntry again with `spotreel retry {id}`",
            error.message
        ),
        (None, "queued" | "started") => {
            format!(
                "task {id} is {}: `spotreel watch {id}` waits for its end",
                task.state
            )
        }
        (None, state) => format!("task {id} is {state}: there is no video"),
    }
}

/// Into a file beside the last one, which takes its place only when every byte is right.
async fn download(video: &Video, path: &PathBuf) -> anyhow::Result<()> {
    let Some(url) = &video.url else {
        bail!("intake gave no link to the video: can it reach the object store?");
    };
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(".".as_ref());
    let mut file = tempfile::Builder::new()
        .prefix(".spotreel-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(|| format!("cannot write into {}", dir.display()))?;
    let (bytes, sha256) = copy(url, &mut file, video.artifact.bytes).await?;
    if bytes != video.artifact.bytes || sha256 != video.artifact.sha256 {
        bail!(
            "the video that arrived is not the one that was rendered ({bytes} bytes, SHA-256 {sha256}; \
             should be {} bytes, {}): nothing was written, try again",
            video.artifact.bytes,
            video.artifact.sha256
        );
    }
    file.as_file().sync_all()?;
    file.persist(path)
        .map_err(|error| error.error)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

async fn copy(url: &str, file: &mut NamedTempFile, size: u64) -> anyhow::Result<(u64, String)> {
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENCE)
        .build()?;
    let answer = http
        .get(url)
        .send()
        .await
        .map_err(reqwest::Error::without_url);
    let mut answer = answer.context("the object store does not answer")?;
    if !answer.status().is_success() {
        bail!(
            "the object store answered {}: try again for a fresh link",
            answer.status()
        );
    }
    let bar = ProgressBar::new(size);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    bar.set_style(style.expect("the template is a constant"));
    let (mut bytes, mut hash) = (0, Sha256::new());
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        file.write_all(&chunk).context("cannot write the video")?;
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    Ok((bytes, hex(&hash.finalize())))
}
