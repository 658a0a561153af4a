//! Packs that the worker keeps: pulled from a real S3, waited for by real renders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use std::path::PathBuf;

use futures::StreamExt;
use spot::{Stage, until};
use spotreel_api::Progress;
use spotreel_domain::model::Expert;
use spotreel_domain::task::TaskLora;
use spotreel_domain::task::{AttemptOutcome, FailureKind, State};
use spotreel_localcloud::{Action, Rule};
use spotreel_packs::{AddLora, LoraFiles, PREFIX, Pack, PublishedLora, Remote};
use spotreel_test_kit::{Program, tiny_pack};

const MODEL: &str = "t2v-A14B";
const LATE: &str = "transformer_2/diffusion_pytorch_model.safetensors";

/// The tiny pack of the engine's own tests, pushed as a person would.
async fn push(stage: &Stage) -> Pack {
    let copy = stage.path("to-push").join(MODEL);
    let pack = Pack::open(&tiny_pack(MODEL)).unwrap();
    for file in &pack.index.files {
        let to = copy.join(&file.path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(pack.path(file), to).unwrap();
    }
    std::fs::copy(tiny_pack(MODEL).join("pack.json"), copy.join("pack.json")).unwrap();
    let remote = Remote::new(stage.store.clone(), PREFIX);
    remote.push(&copy, |_| ()).await.unwrap();
    pack
}

fn blob(pack: &Pack, path: &str) -> String {
    let mut files = pack.index.files.iter();
    let file = files.find(|file| file.path == path).unwrap();
    format!("{PREFIX}blobs/{}", file.sha256)
}

/// What happens from now on to who asks for an object.
fn afflict(stage: &Stage, key: &str, action: Action, change: impl FnOnce(&mut Rule)) {
    let mut rule = Rule {
        key_prefix: Some(key.to_owned()),
        ..Rule::new("GetObject", action)
    };
    change(&mut rule);
    stage.cloud.fail([rule]);
}

fn delay(stage: &Stage, key: &str, delay_ms: u64) {
    afflict(stage, key, Action::Delay, |rule| rule.delay_ms = delay_ms);
}

fn packs_dir(stage: &Stage) -> PathBuf {
    stage.path("packs")
}

fn worker(stage: &Stage, step_ms: u32, settings: &[(&str, &str)]) -> Program {
    let dir = packs_dir(stage).display().to_string();
    let own = [
        ("packs.dir", dir.as_str()),
        ("packs.keep_free_gb", "0"),
        ("models", "[\"ti2v-5B\", \"t2v-A14B\"]"),
        ("telemetry.log", "info,spotreel_worker=debug"),
    ];
    stage.worker("w1", step_ms, &[&own, settings].concat())
}

/// A LoRA of the bucket, as an operator adds it.
async fn add_lora(stage: &Stage, pack: &Pack) -> (Remote, PublishedLora) {
    let remote = Remote::new(stage.store.clone(), PREFIX);
    let file = |noise: &str| Some(pack.dir.join(format!("lora/{noise}.safetensors")));
    let lora = AddLora {
        name: "fox".into(),
        model: pack.index.model,
        files: LoraFiles {
            high: file("high"),
            low: file("low"),
        },
        strength: None,
        scratch: stage.path("lora"),
        source: None,
        license: None,
    };
    std::fs::create_dir(&lora.scratch).unwrap();
    let published = remote.add_lora(lora).await.unwrap().lora;
    (remote, published)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_rendered_with_the_loras_that_it_names_as_they_were_when_it_was_accepted() {
    let stage = Stage::set().await;
    let pack = push(&stage).await;
    let (remote, published) = add_lora(&stage, &pack).await;
    let lora = TaskLora {
        name: "fox".into(),
        strength: 0.5,
        expert: None,
        sha256: Some(published.sha256.clone()),
    };
    let high = TaskLora {
        expert: Some(Expert::High),
        ..lora.clone()
    };
    let replaced = TaskLora {
        sha256: Some("0".repeat(64)),
        ..lora.clone()
    };
    let missing = TaskLora {
        name: "hare".into(),
        ..lora.clone()
    };
    let worker = worker(&stage, 0, &[]);
    let mut videos = Vec::new();
    for (id, loras) in [
        ("none", vec![]),
        ("both", vec![lora.clone()]),
        ("high", vec![high]),
        ("again", vec![lora]),
        ("replaced", vec![replaced]),
        ("missing", vec![missing]),
    ] {
        stage
            .submit_as(id, 4, MODEL, "a red fox", |task| task.spec.loras = loras)
            .await;
        videos.push(match stage.ended(id).await.state {
            State::Succeeded { artifact } => artifact.sha256,
            State::Failed { error } => {
                assert_eq!(error.kind, FailureKind::Invalid);
                error.message
            }
            state => panic!("{state:?}"),
        });
    }
    let [none, both, high, again, replaced, missing] = &videos[..] else {
        panic!("{videos:?}");
    };
    assert_eq!(both, again);
    assert!(none != both && both != high && none != high);
    assert!(
        replaced.contains("another than when the task was accepted"),
        "{replaced}"
    );
    assert!(missing.contains("\"hare\""), "{missing}");
    // Each file was fetched once.
    let kept = std::fs::read_dir(stage.scratch("w1").join("loras")).unwrap();
    assert_eq!(kept.count(), published.index.files.len());
    drop((worker, remote));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_render_begins_before_its_last_file_is_here_and_a_prompt_is_encoded_once() {
    let stage = Stage::set().await;
    let pack = push(&stage).await;
    delay(&stage, &blob(&pack, LATE), 3_000);
    let mut steps = stage.client.subscribe("spotreel.progress.*").await.unwrap();
    stage.submit_with("a", 6, MODEL, "a red fox").await;
    let worker = worker(&stage, 20, &[]);
    let mut last = String::new();
    let step = loop {
        let message = steps.next().await.unwrap();
        let progress: Progress = serde_json::from_slice(&message.payload).unwrap();
        if progress.step >= 1 {
            break progress.step;
        }
        last = progress.phase;
    };
    let late = packs_dir(&stage).join(MODEL).join(LATE);
    assert!(!late.exists(), "step {step} after {last:?}");
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (1, 0));
    assert!(late.exists());

    stage.submit_with("b", 6, MODEL, "a red fox").await;
    stage.rendered("b").await;
    stage.submit_with("c", 6, MODEL, "a grey fox").await;
    stage.rendered("c").await;
    let said = worker.said();
    assert_eq!(
        said.matches("the text was encoded before").count(),
        1,
        "{said}"
    );
    let texts = stage.store.list("embeddings/").await.unwrap();
    assert_eq!(texts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_will_not_come_costs_the_task_nothing() {
    let stage = Stage::set().await;
    let pack = push(&stage).await;
    let late = blob(&pack, LATE);
    stage.store.delete(&late).await.unwrap();
    delay(&stage, &late, 2_000);
    let mut progress = stage.client.subscribe("spotreel.progress.*").await.unwrap();
    stage.submit_with("a", 6, MODEL, "a red fox").await;
    let _first = worker(&stage, 20, &[]);
    loop {
        let message = progress.next().await.unwrap();
        let progress: Progress = serde_json::from_slice(&message.payload).unwrap();
        if (progress.step, progress.phase.as_str()) == (3, "load") {
            break;
        }
    }
    until("it is handed back", async || {
        let task = stage.task("a").await;
        task.attempts
            .first()
            .is_some_and(|attempt| attempt.outcome == AttemptOutcome::Interrupted)
    })
    .await;
    let _second = stage.worker("w2", 0, &[]);
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (2, 0));
    let error = task.attempts[0].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::Model);
    assert!(error.message.contains(LATE), "{}", error.message);
    assert!(task.attempts[1].from_step <= 3);
    assert_eq!(task.attempts[1].worker, "w2");
}

/// S3 is away when the worker comes up; what it had before will do.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_whole_once_is_used_while_the_bucket_has_nothing() {
    let stage = Stage::set().await;
    push(&stage).await;
    stage.submit_with("a", 2, MODEL, "a red fox").await;
    let before = worker(&stage, 0, &[]);
    stage.rendered("a").await;
    drop(before);
    let pointer = format!("{PREFIX}{MODEL}/pack.json");
    stage.store.delete(&pointer).await.unwrap();
    stage.submit_with("b", 2, MODEL, "a red fox").await;
    let after = worker(&stage, 0, &[]);
    stage.rendered("b").await;
    assert!(after.said().contains("using the local pack"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_is_asked_again() {
    let stage = Stage::set().await;
    push(&stage).await;
    afflict(&stage, PREFIX, Action::InternalError, |rule| {
        rule.times = Some(12);
    });
    stage.submit_with("a", 2, MODEL, "a red fox").await;
    let worker = worker(&stage, 0, &[("models", "[\"t2v-A14B\"]")]);
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (1, 0));
    assert!(worker.said().contains("pack pull failed"));
}
