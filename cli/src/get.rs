//! A finished video, into a file.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};
use spotreel_api::{TaskView, Video};
use spotreel_bus::names;
use tempfile::NamedTempFile;

use crate::args::GetArgs;
use crate::connection::{Api, CallError, Settings};
use crate::done::Done;
use crate::print;

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
    let target = Target::of(&args)?;
    let api = Api::open(settings).await?;
    let mut done = Done::Well;
    for id in &args.ids {
        if let Err(error) = fetch(&api, id, &target, args.json).await {
            // The other videos are wanted too.
            done = Done::Failed;
            match error.downcast::<CallError>() {
                Ok(CallError::Refused(error)) if args.json => {
                    print::json(&serde_json::json!({ "id": id, "error": error }));
                }
                Ok(error) => eprintln!("spotreel: {}", print::named(id, &error)),
                Err(error) => eprintln!("spotreel: {}", print::named(id, &format!("{error:#}"))),
            }
        }
    }
    Ok(done)
}

/// Where videos go.
enum Target {
    File(PathBuf),
    /// Each under its id.
    Dir(PathBuf),
    Stdout,
}

impl Target {
    fn of(args: &GetArgs) -> anyhow::Result<Self> {
        let several = args.ids.len() > 1;
        let Some(output) = &args.output else {
            return Ok(Self::Dir(PathBuf::new()));
        };
        if output == Path::new("-") {
            if several || args.json {
                bail!(
                    "standard output takes one video and nothing else: give one id, and no --json"
                );
            }
            return Ok(Self::Stdout);
        }
        if output.as_os_str().as_encoded_bytes().ends_with(b"/") {
            std::fs::create_dir_all(output)
                .with_context(|| format!("cannot make {}", output.display()))?;
        }
        if output.is_dir() {
            return Ok(Self::Dir(output.clone()));
        }
        if several {
            bail!(
                "{} is not a directory, and there is more than one video: write {}/",
                output.display(),
                output.display()
            );
        }
        Ok(Self::File(output.clone()))
    }
}

async fn fetch(api: &Api, id: &str, target: &Target, json: bool) -> anyhow::Result<()> {
    let task = api.task(names::GET, id).await?;
    let Some(video) = &task.video else {
        bail!("{}", without_video(&task))
    };
    let path = match target {
        Target::File(path) => path.clone(),
        Target::Dir(dir) => dir.join(format!("{}.mp4", task.id)),
        Target::Stdout => {
            let mut file = download(video, &std::env::temp_dir()).await?;
            file.rewind()?;
            std::io::copy(&mut file, &mut std::io::stdout().lock())
                .context("cannot write to standard output")?;
            return Ok(());
        }
    };
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(".".as_ref());
    let file = download(video, dir).await?;
    file.as_file().sync_all()?;
    file.persist(&path)
        .map_err(|error| error.error)
        .with_context(|| format!("cannot write {}", path.display()))?;
    if json {
        print::json(&Fetched {
            id: task.id.as_str(),
            path,
            bytes: video.artifact.bytes,
            sha256: &video.artifact.sha256,
        });
    } else {
        print::line(&path.display().to_string());
    }
    Ok(())
}

fn without_video(task: &TaskView) -> String {
    let id = &task.id;
    match (&task.error, task.state.as_str()) {
        (Some(error), _) => format!(
            "task {id} failed: {}\ntry again with `spotreel retry {id}`",
            error.message
        ),
        (None, "queued" | "started") => {
            let progress = print::progress(task).map(|text| format!(" ({text})"));
            format!(
                "task {id} is {}{}: `spotreel watch {id}` waits for its end",
                task.state,
                progress.unwrap_or_default()
            )
        }
        (None, state) => format!("task {id} is {state}: there is no video"),
    }
}

/// Into a new file in `dir`, which gets its name only when every byte is right.
async fn download(video: &Video, dir: &Path) -> anyhow::Result<NamedTempFile> {
    let Some(url) = &video.url else {
        bail!("intake gave no link to the video: check that it can reach the object store");
    };
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
    Ok(file)
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
    Ok((bytes, hex::encode(hash.finalize())))
}
