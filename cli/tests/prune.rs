//! `spotreel models prune` as a person types it, against the local cloud's bucket.

mod scene;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use scene::*;
use serde_json::json;
use spotreel_localcloud::{Action, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_version_left_goes_when_it_is_old_enough() {
    let s = Scene::new().await;
    let (from, old, new) = (s.path("from"), s.path("old"), s.path("new"));
    s.pack(tiny().to_str().expect("it is text"), &old);
    s.say(&["push", &old]);
    grown(&from, 1 << 20);
    s.pack(&from, &new);
    s.say(&["push", &new]);
    // Of the old version's files the new one lacks the expert that has grown.
    let unnamed = fs::metadata(Path::new(&old).join(HIGH)).expect("it is there");

    let told = s.document(&["prune"]);
    assert_eq!((&told["blobs"], &told["waiting"]), (&json!([]), &json!(1)));
    assert_eq!(told["waiting_bytes"], unnamed.len());
    let told = s.say(&["prune"]);
    assert!(
        told.starts_with("0 blobs") && told.contains("1 more"),
        "{told}"
    );
    let at_once = ["prune", "--older-than", "0s"];
    let look = s.document(&[&at_once[..], &["--dry-run"]].concat());
    assert_eq!(look["blobs"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&look["bytes"], &look["packs"]),
        (&json!(unnamed.len()), &json!(1))
    );
    let told = s.say(&[&at_once[..], &["--dry-run"]].concat());
    let name = look["blobs"][0].as_str().expect("it is text");
    assert!(
        told.contains(&name[..12]) && told.contains("would go"),
        "{told}"
    );
    let told = s.say(&at_once);
    assert!(
        told.contains(&name[..12]) && told.contains("removed"),
        "{told}"
    );
    assert_eq!(s.document(&at_once)["blobs"], json!([]));
    s.say(&["pull", MODEL, "--packs", &s.path("packs")]);
    // Put back: the bucket has lost it indeed.
    assert_eq!(s.document(&["push", &old])["sent"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_told_to_end_leaves_no_lock() {
    let s = Scene::new().await;
    let slow = Rule {
        delay_ms: 600_000,
        ..Rule::new("ListObjectsV2", Action::Delay)
    };
    s.cloud.fail([slow]);
    let pruning = s.command(&["prune"]).stderr(Stdio::piped()).spawn();
    let mut pruning = pruning.expect("it can be run");
    asked_for(&s, &mut pruning).await;
    let error = s.refused(&["prune"]);
    let said = format!("process {} on ", pruning.id());
    assert!(
        error.contains("models/prune.lock") && error.contains(&said),
        "{error}"
    );
    let error = end(pruning);
    assert!(error.contains("nothing was removed"), "{error}");
    s.cloud.faults().clear();
    s.say(&["prune"]);
}
