//! `spotreel models` as a person types it, against the local cloud's bucket.

mod scene;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use scene::*;
use serde_json::json;
use spotreel_localcloud::{Action, Rule};
use spotreel_test_kit::until;

#[tokio::test(flavor = "multi_thread")]
async fn from_what_is_published_to_another_machine() {
    let s = Scene::new().await;
    let (from, made, packs) = (tiny(), s.path("made"), s.path("packs"));
    let from = from.to_str().expect("it is text");
    assert_eq!(s.say(&["list"]), "no packs\n");
    let error = s.refused(&["pull", MODEL, "--packs", &packs]);
    assert!(
        error.contains("no_pack") && error.contains("models push"),
        "{error}"
    );

    let pack = s.pack(from, &made);
    assert_eq!(
        (&pack["model"], pack["files"].as_u64()),
        (&json!(MODEL), Some(12))
    );
    assert_eq!(s.document(&["verify", &made])["pack"], pack["pack"]);
    assert_eq!(s.document(&["push", &made])["sent"], 11);
    assert_eq!(s.document(&["push", &made])["sent"], 0);
    let told = s.say(&["list", "--packs", &packs]);
    assert!(told.contains(MODEL) && told.contains(" -\n"), "{told}");

    let pulled = s.document(&["pull", MODEL, "--packs", &packs]);
    assert_eq!(pulled["pack"], pack["pack"]);
    let dir = Path::new(&packs).join(MODEL);
    assert_eq!(pulled["dir"], json!(dir));
    assert_eq!(s.document(&["list", "--packs", &packs])["here"], "whole");
    let dir = dir.display().to_string();
    s.say(&["verify", &dir]);

    let path = Path::new(&dir).join(HIGH);
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[3000] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    assert_eq!(
        s.document(&["list", "--packs", &packs])["here"],
        "not_verified"
    );
    let error = s.refused(&["verify", &dir]);
    assert!(error.starts_with("spotreel: sha256_mismatch: "), "{error}");
    fs::write(&path, &bytes[..3000]).expect("it can be written");
    assert_eq!(
        s.document(&["list", "--packs", &packs])["here"],
        "incomplete"
    );
    let error = s.refused(&["push", &dir]);
    assert!(error.contains("has 3000 bytes of"), "{error}");
    s.say(&["pull", MODEL, "--packs", &packs]);
    assert_eq!(s.document(&["list", "--packs", &packs])["here"], "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_killed_is_gone_on_with() {
    let s = Scene::new().await;
    let (from, made, packs) = (s.path("from"), s.path("made"), s.path("packs"));
    grown(&from, 64 << 20);
    let pack = s.pack(&from, &made);
    s.say(&["push", &made]);
    let slow = Rule {
        key_prefix: Some("models/blobs/".to_owned()),
        delay_ms: 100,
        ..Rule::new("GetObject", Action::Delay)
    };
    let asked = || s.cloud.faults().report()[0].matched;
    let args = ["pull", MODEL, "--packs", &packs, "--connections", "1"];

    s.cloud.fail([slow.clone()]);
    let mut first = s.command(&args).spawn().expect("it can be run");
    let part = Path::new(&packs).join(MODEL).join(format!("{HIGH}.part"));
    until("some of it is there", async || {
        assert_eq!(first.try_wait().expect("it is our child"), None);
        fs::metadata(&part).is_ok_and(|part| part.len() >= 3 * RANGE)
    })
    .await;
    first.kill().expect("it is our child"); // SIGKILL
    first.wait().expect("it is our child");
    let before = asked();
    assert!(!Path::new(&packs).join(MODEL).join(HIGH).exists());

    s.cloud.fail([slow]);
    let pulled = s.document(&args);
    assert_eq!(pulled["pack"], pack["pack"]);
    let files = pack["files"].as_u64().expect("it is a number");
    // Nine ranges of the large file, one of every other.
    let whole = files - 1 + 9;
    assert!(asked() + 3 <= whole, "{} of {whole}", asked());
    // One range may have been under way, and one in memory.
    assert!(
        before + asked() <= whole + 2,
        "{before} and {} of {whole}",
        asked()
    );
    s.say(&[
        "verify",
        &Path::new(&packs).join(MODEL).display().to_string(),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_when_it_is_told_to() {
    let s = Scene::new().await;
    let (made, packs) = (s.path("made"), s.path("packs"));
    s.pack(tiny().to_str().expect("it is text"), &made);
    s.say(&["push", &made]);
    let stuck = Rule {
        key_prefix: Some("models/blobs/".to_owned()),
        delay_ms: 600_000,
        ..Rule::new("GetObject", Action::Delay)
    };
    s.cloud.fail([stuck]);
    let mut command = s.command(&["pull", MODEL, "--packs", &packs]);
    let pulling = command.stderr(Stdio::piped()).spawn();
    let mut pulling = pulling.expect("it can be run");
    asked_for(&s, &mut pulling).await;
    let errors = end(pulling);
    assert!(
        errors.contains("the next pull continues from here"),
        "{errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_before_anything_is_done() {
    let s = Scene::new().await;
    let mut command = s.command(&["push", "nowhere"]);
    let output = command.env_remove("SPOTREEL_BUCKET").output();
    let error = output.expect("it can be run").stderr;
    let error = String::from_utf8_lossy(&error);
    assert!(error.contains("--bucket, or SPOTREEL_BUCKET"), "{error}");
    let error = s.refused(&["push", "nowhere"]);
    assert!(
        error.contains("no pack found: nowhere/pack.json"),
        "{error}"
    );
    let wrong = s.run(&["pull", "wan", "--packs", "p"]);
    assert_eq!(wrong.status.code(), Some(2));
    let mut command = s.command(&["pull", MODEL, "--packs", &s.path("packs")]);
    let output = command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .output();
    let error = output.expect("it can be run").stderr;
    let error = String::from_utf8_lossy(&error);
    assert!(error.contains("check AWS_ENDPOINT_URL"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lora_is_added_listed_and_removed() {
    let s = Scene::new().await;
    let made = s.path("made");
    s.pack(tiny().to_str().expect("it is text"), &made);
    s.say(&["push", &made]);
    let file = tiny().join("lora/high.safetensors");
    let file = file.to_str().expect("it is text");
    let add = ["lora", "add", "fox-style", "--model", MODEL, "--file", file];
    let document = |added: bool| {
        let mut told = s.document(&add);
        let said = told.as_object_mut().and_then(|told| told.remove("added"));
        assert_eq!(said, Some(added.into()), "whether it was not there before");
        told
    };
    let added = document(true);
    assert_eq!(added["name"], "fox-style");
    assert!(added["files"]["transformer"]["sha256"].is_string());
    assert!(
        added["files"]["transformer_2"].is_object(),
        "one file for both: {added}"
    );
    assert_eq!(document(false), added);
    assert_eq!(s.document(&["lora", "list"]), added);
    let told = s.say(&["lora", "list"]);
    assert!(told.contains("fox-style") && told.contains(MODEL), "{told}");
    let error = s.refused(&["lora", "add", "wolf", "--model", "ti2v-5B", "--file", file]);
    assert!(error.contains("push the pack first"), "{error}");
    let error = s.refused(&["lora", "add", "wolf", "--model", MODEL, "--file", &made]);
    assert!(error.contains("made"), "{error}");
    assert_eq!(s.document(&["lora", "remove", "fox-style"]), added);
    let error = s.refused(&["lora", "remove", "fox-style"]);
    assert!(error.contains("no LoRA fox-style"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_has_the_engine_compare_the_tokenizer() {
    let s = Scene::new().await;
    let made = s.path("made");
    s.pack(tiny().to_str().expect("it is text"), &made);
    let engine = |name: &str, says: &str| {
        let path = s.path(name);
        fs::write(
            &path,
            format!("#!/bin/sh\n[ \"$1 $2\" = \"--check-tokenizer {made}\" ] || exit 3\n{says}\n"),
        )
        .expect("it can be written");
        let run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, run).expect("it is mine");
        path
    };
    let good = engine(
        "good",
        r#"echo '{"compared": 418, "differ": [], "differing": 0}'"#,
    );
    let told = s.say(&["verify", &made, "--engine", &good]);
    assert!(
        told.contains("418 prompts") && told.contains("verified"),
        "{told}"
    );
    let other = engine(
        "other",
        r#"echo '{"compared": 418, "differ": [{"text": "狐狸", "file": [1], "loaded": [2]}], "differing": 7}'; exit 1"#,
    );
    let error = s.refused(&["verify", &made, "--engine", &other]);
    assert!(
        error.contains("bad_tokenizer") && error.contains("狐狸") && error.contains("7 of 418"),
        "{error}"
    );
    let broken = engine("broken", "echo 'KeyError: pad_token' >&2; exit 1");
    let error = s.refused(&["verify", &made, "--engine", &broken]);
    assert!(error.contains("KeyError: pad_token"), "{error}");
}
