//! `spotreel dev` with a real fleet: what is started comes to work, and nothing of it outlives it.
//!
//! The other programs lie beside `spotreel` once `make build` has made them.

mod system;

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::Value;
use spotreel_test_kit::eventually;
use system::{Dev, SOON, document, marked, refusal, spotreel, until};
use tempfile::TempDir;

#[tokio::test]
async fn one_task_is_rendered_by_a_machine_that_was_bought_for_it() {
    let dir = TempDir::new().expect("a directory can be made");
    let mut dev = Dev::start(dir.path(), &["--max-wait", "1s"]).await;
    assert_eq!(dev.workers(), 0, "nothing is bought for nothing");
    let task = ["--prompt", "a red fox", "--frames", "5", "--steps", "2"];
    dev.say(&[&["submit", "--wait"], &task[..]].concat());
    until("the batch has settled", || {
        dev.pool()["batch"]["status"] == "settled"
    })
    .await;
    assert_eq!(dev.workers(), 0, "nothing is left of it");
    let story = dev.say(&["batches", "default-1"]);
    assert!(story.contains("1 machine bought"), "{story}");
    assert!(story.contains("max_wait"), "{story}");

    dev.signal(Signal::SIGTERM);
    let ended = dev.process.wait().expect("it is our child");
    assert!(ended.success(), "{ended}");
    assert_eq!(marked(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn orders_are_carried_out_and_refused_in_words() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--max-wait", "1s", "--step-ms", "500"]).await;
    dev.say(&["hold", "--reason", "the floor is wet"]);
    dev.say(&["submit", "--prompt", "a red fox", "--steps", "60"]);
    until("the hold is told with the rule that fires", || {
        let why = dev.say(&["why"]);
        why.contains("blocked: max_wait") && why.contains("the floor is wet")
    })
    .await;
    dev.say(&["run", "--force"]);
    let busy = || dev.pool()["instances"][0]["worker"]["task"].is_string();
    until("a machine renders", busy).await;
    let plan = dev.say(&["fleet", "reap", "--all", "--dry-run"]);
    assert!(plan.contains("1 would be ended"), "{plan}");
    dev.say(&["stop", "--now"]);
    until("the batch has settled", || {
        dev.pool()["batch"]["status"] == "settled"
    })
    .await;
    let tasks = dev.say(&["list"]);
    assert!(tasks.contains("queued"), "the task stays: {tasks}");

    let refused = spotreel(dir.path(), &["run", "--pool", "nope"]).output();
    let refused = refused.expect("it can be run");
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("no pool \"nope\""), "{words}");
}

#[tokio::test]
async fn machines_of_a_dev_that_was_killed_end_with_the_next_one() {
    let dir = TempDir::new().expect("a directory can be made");
    let args = ["--max-wait", "1s", "--step-ms", "500"];
    let mut dev = Dev::start(dir.path(), &args).await;
    dev.say(&["submit", "--prompt", "a red fox", "--steps", "60"]);
    until("a machine runs", || dev.workers() == 1).await;
    dev.signal(Signal::SIGKILL);
    dev.process.wait().expect("it is our child");
    assert_eq!(dev.workers(), 1, "nobody was there to end it");

    let mut next = Dev::start(dir.path(), &["--workers", "0"]).await;
    assert_eq!(
        next.workers(),
        0,
        "and no machine is bought without a fleet"
    );
    next.signal(Signal::SIGINT);
    assert!(next.process.wait().expect("it is our child").success());
    assert_eq!(marked(dir.path()), Vec::<String>::new());
}

/// The Python program that README shows, run as README says.
fn readme_program(dir: &Path, prompt: &str) -> std::process::Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("it is there");
    let program = readme.split("```python\n").nth(1).expect("it shows one");
    let program = program.split("```").next().expect("it ends");
    let venv = root.join(".venv/bin/python");
    let python = if venv.exists() {
        venv
    } else {
        "python3".into()
    };
    let endpoints = std::fs::read_to_string(dir.join("endpoints.env")).expect("it is there");
    let endpoints = endpoints.lines().filter_map(|line| line.split_once('='));
    let mut command = Command::new(python);
    command.args(["-c", program]).envs(endpoints);
    command
        .env("PROMPT", prompt)
        .output()
        .expect("it can be run")
}

#[tokio::test]
async fn readmes_python_tells_a_video_from_a_failure_and_a_refusal() {
    let dir = TempDir::new().expect("a directory can be made");
    let _dev = Dev::start(dir.path(), &["--workers", "1"]).await;
    let good = readme_program(dir.path(), "a red fox in the snow");
    let words = String::from_utf8_lossy(&good.stderr).into_owned();
    assert!(good.status.success(), "{words}");
    assert!(String::from_utf8_lossy(&good.stdout).contains("video: http"));
    for (prompt, told) in [("{{invalid@1}}", "failed"), ("", "refused")] {
        let bad = readme_program(dir.path(), prompt);
        let words = String::from_utf8_lossy(&bad.stderr).into_owned();
        assert_eq!(bad.status.code(), Some(1), "{words}");
        assert!(words.contains(&format!("no video: {told}")), "{words}");
    }
}

#[tokio::test]
async fn a_file_again_is_the_same_tasks_and_videos_go_where_they_are_wanted() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--workers", "1"]).await;
    let file = dir.path().join("tasks.jsonl");
    let line =
        r#"{"model":"ti2v-5B","prompt":"雪の中の狐","frames":5,"steps":2,"expires_in":"1h"}"#;
    std::fs::write(&file, format!("\u{feff}{line}\r\n{line}\r\n")).expect("it can be written");
    let file = file.display().to_string();
    let first = dev.say(&["submit", "-f", &file, "--wait"]);
    let again = dev.say(&["submit", "-f", &file]);
    let ids: Vec<_> = again.lines().collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| first.contains(id)), "{first}\n{again}");
    assert_eq!(dev.say(&["list", "--json"]).lines().count(), 2);

    let videos = format!("{}/", dir.path().join("videos").display());
    dev.say(&["get", ids[0], ids[1], "-o", &videos]);
    let video = std::fs::read(format!("{videos}{}.mp4", ids[1])).expect("it was fetched");
    let piped = spotreel(dir.path(), &["get", ids[1], "-o", "-"]).output();
    assert_eq!(piped.expect("it can be run").stdout, video);

    let missing = spotreel(dir.path(), &["status", "nope", "--json"]).output();
    let missing = missing.expect("it can be run");
    assert_eq!(missing.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&missing.stdout).expect("it is JSON");
    assert_eq!(told["error"]["code"], "not_found");
}

#[tokio::test]
async fn a_disk_that_was_full_is_written_again_without_a_person() {
    let dir = TempDir::new().expect("a directory can be made");
    let Some(dev) = Dev::on_a_small_disk(dir.path(), &["--workers", "0"]).await else {
        return eprintln!("SKIPPED: nobody may mount a tmpfs in a user namespace here");
    };
    let task = ["submit", "--prompt", "a red fox"];
    dev.say(&task);
    // The disk as the server sees it.
    let store = dir.path().canonicalize().expect("it is there").join("nats");
    let store = format!("/proc/{}/root{}", dev.process.id(), store.display());
    let disk = statvfs(store.as_str()).expect("it is there");
    let free = disk.blocks_available() * disk.fragment_size();
    let left = 1 << 20;
    let filler = Path::new(&store).join("filler");
    let zeros = vec![0; usize::try_from(free - left).expect("it is small")];
    std::fs::write(&filler, zeros).expect("it fits");
    let line = serde_json::json!({"model": "ti2v-5B", "prompt": "x".repeat(2_000)});
    let file = dir.path().join("tasks.jsonl");
    std::fs::write(&file, format!("{line}\n").repeat(1_000)).expect("it can be written");
    let too_much = spotreel(dir.path(), &["submit", "-f", &file.display().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut too_much = too_much.expect("it can be started");

    let ports = std::fs::read(dir.path().join("ports.json")).expect("it is there");
    let ports: Value = serde_json::from_slice(&ports).expect("it is JSON");
    let url = format!("http://127.0.0.1:{}/readyz", ports["intake"]);
    let client = reqwest::Client::builder().no_proxy().build();
    let client = client.expect("it can be made");
    let is_ready = async || {
        let answer = client.get(&url).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    let says_so = async || (!is_ready().await).then_some(());
    eventually("intake says that nothing is stored", SOON, says_so).await;
    too_much.kill().expect("it is our child");
    too_much.wait().expect("it is our child");

    std::fs::remove_file(&filler).expect("it is there");
    until("tasks are taken again", || {
        let submitted = spotreel(dir.path(), &task).output();
        submitted.expect("it can be run").status.success()
    })
    .await;
    let is_well = async || is_ready().await.then_some(());
    eventually("intake is ready again", SOON, is_well).await;
}

#[tokio::test]
async fn tasks_are_found_and_cancelled_by_label_date_and_the_beginning_of_an_id() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--workers", "0"]).await;
    let submit = |label: &str| {
        let id = dev.say(&["submit", "--prompt", "a fox", "--label", label]);
        id.trim().to_owned()
    };
    let day = [submit("batch=day"), submit("batch=day")];
    let night = submit("batch=night");
    let listed = |flags: &[&str]| {
        dev.say(&[&["list", "--json"], flags].concat())
            .lines()
            .count()
    };
    assert_eq!(listed(&["--label", "batch=day"]), 2);
    assert_eq!(listed(&["--label", "batch", "--since", "1h"]), 3);
    assert_eq!(listed(&["--since", "2100-01-01"]), 0);
    assert_eq!(listed(&["--owner", "anna"]), 0);

    // All three were drawn within two minutes.
    let several = refusal(dir.path(), &["status", &night[..5]]);
    assert!(
        day.iter().chain([&night]).all(|id| several.contains(id)),
        "{several}"
    );
    let own = &night[..night.len() - 1];
    assert_eq!(
        document(&dev.say(&["status", own, "--json"]))["id"],
        night.as_str()
    );
    let unknown = refusal(dir.path(), &["get", "ffff"]);
    assert!(unknown.contains("there is no task ffff"), "{unknown}");

    let told = dev.say(&[
        "cancel",
        "--label",
        "batch=day",
        "--state",
        "queued",
        "--json",
    ]);
    let told = document(&told);
    assert_eq!(told["cancelled"], 2);
    assert!(
        day.iter().all(|id| told["ids"].to_string().contains(id)),
        "{told}"
    );
    assert_eq!(
        dev.say(&["cancel", "--label", "batch=day"]),
        "cancelled 0 tasks\n"
    );
    let refused = refusal(dir.path(), &["cancel", "--state", "failed"]);
    assert!(refused.contains("queued or started"), "{refused}");
    let ended = format!("{night} cancelled");
    assert!(dev.say(&["cancel", own]).contains(&ended));
    let watched = spotreel(dir.path(), &["watch", own]).output();
    let watched = watched.expect("it can be run").stdout;
    assert!(String::from_utf8_lossy(&watched).contains(&ended));
}

#[tokio::test]
async fn tasks_are_searched_for_by_words_and_filters() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--workers", "0"]).await;
    dev.say(&["submit", "--prompt", "雪中的狐狸", "--label", "film=1"]);
    dev.say(&["submit", "--prompt", "a grey cat", "--label", "film=2"]);
    let found = |args: &[&str]| {
        let told = dev.say(&[&["search", "--json"], args].concat());
        told.lines().count()
    };
    until("both are found", || found(&[]) == 2).await;
    assert_eq!(found(&["狐狸"]), 1);
    assert_eq!(found(&["cat", "grey"]), 1);
    assert_eq!(found(&["\"cat grey\""]), 0);
    let of_film = ["--label", "film=1", "--state", "queued", "--since", "1h"];
    assert_eq!(found(&of_film), 1);
    assert_eq!(found(&["--since", "2100-01-01"]), 0);
    assert_eq!(found(&["--until", "1h"]), 0);
    assert_eq!(dev.say(&["search", "dog"]), "no tasks\n");
    assert!(dev.say(&["search", "cat"]).contains("a grey cat"));
    let refused = refusal(dir.path(), &["search", "--state", "done"]);
    assert!(refused.contains("state is one of"), "{refused}");

    let endpoints = std::fs::read_to_string(dir.path().join("endpoints.env"));
    let endpoints = endpoints.expect("it is there");
    let mut lines = endpoints.lines();
    let api = lines.find_map(|line| line.strip_prefix("SPOTREEL_API="));
    let url = format!("{}/v1/search?text=cat", api.expect("it is named"));
    let client = reqwest::Client::builder().no_proxy().build();
    let answer = client.expect("it can be made").get(url).send().await;
    let answer = answer.expect("intake answers").text().await;
    let page: Value = serde_json::from_str(&answer.expect("it is whole")).expect("it is JSON");
    assert_eq!(page["tasks"][0]["prompt"], "a grey cat");
}

#[tokio::test]
async fn status_tells_how_far_a_render_is() {
    let dir = TempDir::new().expect("a directory can be made");
    let dev = Dev::start(dir.path(), &["--workers", "1", "--step-ms", "300"]).await;
    let id = dev.say(&[
        "submit", "--prompt", "a fox", "--frames", "5", "--steps", "60",
    ]);
    let id = id.trim();
    until("a step is told", || {
        let status = document(&dev.say(&["status", id, "--json"]));
        status["step"].is_u64() && status["phase"].is_string() && status["worker"].is_string()
    })
    .await;
    let status = dev.say(&["status", id]);
    assert!(
        status.contains("progress:  step ") && status.contains(" of 60, "),
        "{status}"
    );
    let early = refusal(dir.path(), &["get", id]);
    assert!(early.contains("is started (step "), "{early}");
}

/// A picture of more bytes than a message takes: a chunk that no reader looks at makes it large.
fn large_picture() -> Vec<u8> {
    const SMALL: &str = "iVBORw0KGgoAAAANSUhEUgAAAIAAAACACAAAAADmVT4XAAAAb0lEQVR42u3bsQ0AIAgAQTBO6RAO48RsoIUFzX1NwiXU5IreRgAAAAAAAAAAAAAAAAAAADQ3XwP7d8NxAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIB76cEBAAAAAAAAAAAAAAAAAKAbUBwkArWJu+lXAAAAAElFTkSuQmCC";
    /// The signature and the chunk IHDR.
    const HEAD: usize = 8 + 25;
    let small = STANDARD.decode(SMALL).expect("it is base64");
    let chunk = [&b"juNk"[..], &[0; 8_000_000]].concat();
    let mut crc = !0_u32;
    for byte in &chunk {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    let length = u32::try_from(chunk.len() - 4).expect("it is small enough");
    let mut picture = small[..HEAD].to_vec();
    picture.extend(length.to_be_bytes());
    picture.extend(chunk);
    picture.extend((!crc).to_be_bytes());
    picture.extend(&small[HEAD..]);
    picture
}

#[tokio::test]
async fn a_large_picture_and_its_video_go_past_the_proxy_with_the_exported_key() {
    let dir = TempDir::new().expect("a directory can be made");
    let keys = ("SPOTREEL_INTAKE_API__AUTH", "keys");
    let dev = Dev::start_with(dir.path(), &["--workers", "1"], &[keys]).await;
    let picture = dir.path().join("large.png");
    std::fs::write(&picture, large_picture()).expect("it can be written");
    let picture = picture.display().to_string();
    let submit = [
        &["submit", "--prompt", "a fox", "--image", &picture][..],
        &["--frames", "5", "--steps", "2", "--id", "fox", "--wait"],
    ]
    .concat();
    let refused = refusal(dir.path(), &submit);
    assert!(refused.contains("refused the picture (401"), "{refused}");

    let key = document(&dev.say(&["keys", "create", "--owner", "anna", "--json"]));
    let key = key["token"].as_str().expect("it is told once");
    // Nobody listens at this port.
    let behind_proxy = |args: &[&str]| {
        let mut command = spotreel(dir.path(), args);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:9");
        }
        let output = command.env("SPOTREEL_API_KEY", key).output();
        output.expect("it can be run").status.success()
    };
    // Intake hears of a key a moment after it was made.
    until("the picture was taken", || behind_proxy(&submit)).await;
    let video = dir.path().join("fox.mp4").display().to_string();
    assert!(behind_proxy(&["get", "fox", "-o", &video]));
    assert!(std::fs::exists(video).expect("it can be looked at"));
}
