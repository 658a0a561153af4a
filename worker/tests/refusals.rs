//! What a worker cannot render is left to others, without costing the task a try; and not for ever.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use spot::{Stage, until};
use spotreel_domain::task::{AttemptOutcome, FailureKind, MAX_RETRIES, State};
use spotreel_worker::engine::protocol::CHECKPOINT_FORMAT;
use spotreel_worker::task::checkpoints;

const MODEL: &str = "ti2v-5B";
/// Delays of minutes, in milliseconds.
const QUICK: (&str, &str) = ("retry.scale", "0.0001");
const DEBUG: (&str, &str) = ("telemetry.log", "info,spotreel_worker=debug");

#[tokio::test(flavor = "multi_thread")]
async fn broken_weights_are_left_to_another_worker_at_once() {
    let stage = Stage::set().await;
    let mut first = stage.worker("w1", 0, &[("models", "[\"ti2v-5B\"]")]);
    stage
        .submit_with("a", 4, MODEL, "a fox {{model@2#1}}")
        .await;
    until("it is handed back", async || {
        stage
            .task("a")
            .await
            .attempts
            .iter()
            .any(|a| a.ended_at.is_some())
    })
    .await;
    assert_ne!(
        first.left().await,
        Some(0),
        "it can render nothing and says so"
    );
    let _second = stage.worker("w2", 0, &[]);
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (2, 0));
    let declined = &task.attempts[0];
    assert_eq!(declined.outcome, AttemptOutcome::Interrupted);
    assert_eq!(declined.error.as_ref().unwrap().kind, FailureKind::Model);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_declined_once_and_is_no_work_for_this_worker() {
    let stage = Stage::set().await;
    let idle = ("idle.exit_after", "3s");
    let mut small = stage.worker("w1", 0, &[QUICK, DEBUG, idle]);
    stage.submit_with("a", 4, MODEL, "a fox {{huge@0#1}}").await;
    assert_eq!(
        small.left().await,
        Some(0),
        "it had nothing that it could do"
    );
    let task = stage.task("a").await;
    assert!(matches!(task.state, State::Queued { .. }));
    assert_eq!((task.attempts_total, task.failures), (1, 0));
    let error = task.attempts[0].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::Oom);
    let said = &error.message;
    assert!(said.contains("46 GB") && said.contains("L40S"), "{said}");
    // Once with each of its profiles, and never again.
    let asked = small.said().matches("line=\"fault Huge").count();
    assert_eq!(asked, 2);
    let _large = stage.worker("w2", 0, &[]);
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_out_of_memory_is_tried_with_less_of_it() {
    let stage = Stage::set().await;
    let first = stage.worker("w1", 0, &[("checkpoint.every_steps", "1"), DEBUG]);
    stage.submit_with("a", 6, MODEL, "a fox {{large@3}}").await;
    let task = stage.rendered("a").await;
    assert_eq!((task.attempts_total, task.failures), (1, 0));
    // With a profile that a person chose it fails, and is tried again later.
    drop(first);
    let _chosen = stage.worker("w2", 0, &[("engine.profile", "sim"), QUICK]);
    stage.submit_with("b", 6, MODEL, "a fox {{large@3}}").await;
    let task = stage.ended("b").await;
    assert!(matches!(task.state, State::Failed { .. }));
    assert_eq!(task.attempts_total, MAX_RETRIES + 1);
}

/// Of the last step: nothing is left but to decode.
fn checkpoint(model: &str, steps: u32) -> Vec<u8> {
    let shape = vec![1, 48, 3, 6, 8];
    let data = vec![0; 4 * shape.iter().product::<usize>()];
    let latents = TensorView::new(Dtype::F32, shape, &data).unwrap();
    let state =
        serde_json::json!({"model": model, "total": steps, "next_step": steps, "phase": "decode"});
    let metadata = HashMap::from([(CHECKPOINT_FORMAT.to_owned(), state.to_string())]);
    safetensors::serialize([("latents", latents)], Some(metadata)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_no_render_can_go_on_from_is_removed_and_the_one_before_it_is_used() {
    let stage = Stage::set().await;
    stage.submit("a", 4).await;
    let task = stage.task("a").await;
    let put = async |key: &str, bytes: Vec<u8>| {
        let key = format!("checkpoints/a/1/{key}.ckpt");
        let put = stage
            .store
            .put_bytes(&key, bytes.into(), "", true, HashMap::new());
        put.await.unwrap();
    };
    let good = checkpoint(MODEL, 4);
    put("00004-7", good.clone()).await;
    put("00004-8", checkpoint("t2v-A14B", 4)).await;
    put("00004-9", good[..good.len() - 1].to_vec()).await;
    let work = tempfile::tempdir().unwrap();
    let mut taken = Vec::new();
    for stored in checkpoints::list(&stage.store, &task).await.unwrap() {
        let got = checkpoints::fetch(
            &stage.store,
            &stored,
            &task.spec,
            Some(CHECKPOINT_FORMAT),
            work.path(),
        );
        taken.push(got.await.is_ok());
        // Another engine's, which nobody here can read, is that engine's business.
        let foreign =
            checkpoints::fetch(&stage.store, &stored, &task.spec, None, work.path()).await;
        assert_eq!(
            foreign.is_ok(),
            *taken.last().unwrap(),
            "what was refused is gone"
        );
    }
    assert_eq!(taken, [false, false, true]);
    let left = checkpoints::list(&stage.store, &task).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].key.ends_with("00004-7.ckpt"));
}
