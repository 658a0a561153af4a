//! Packs that still arrive, text that is shared, checkpoints that the worker can read.

use std::path::Path;

use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_domain::Model;
use spotreel_domain::task::TaskSpec;
use spotreel_worker::engine::protocol::{
    CHECKPOINT_FORMAT, EmbeddingsFile, ErrorKind, Phase, RenderTask,
};
use spotreel_worker::engine::{Load, RenderEvent};
use spotreel_worker::task::checkpoints::inspect::inspect;

use super::stage::{
    Bench, LATE, MODEL, STEPS, checkpoints, embeddings, finished, sha256, tiny_pack, tiny_png,
};

#[tokio::test]
async fn what_is_still_on_its_way_is_waited_for_when_it_is_needed() {
    let Some(mut bench) = Bench::sharing().await else {
        return;
    };
    let request = bench.request("a lake");
    let whole = bench.video(request).await.sha256;
    let late = bench.load_arriving().await;
    let request = bench.request("a lake");
    let mut render = bench.engine.render(request, None).unwrap();
    let mut phases = Vec::new();
    let mut steps = 0;
    let finished = loop {
        match render.next().await {
            RenderEvent::Phase(Phase::Load) => {
                assert!((1..STEPS).contains(&steps), "it began without: {steps}");
                phases.push(Phase::Load);
                let part = late.with_extension("part");
                std::fs::copy(tiny_pack().join(LATE), &part).unwrap();
                std::fs::rename(&part, &late).unwrap();
            }
            RenderEvent::Phase(phase) => phases.push(phase),
            RenderEvent::Step(step) => steps = step.done,
            RenderEvent::Finished(info) => break info,
            RenderEvent::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    };
    let load = phases.iter().position(|phase| *phase == Phase::Load);
    assert_eq!(phases[load.unwrap() + 1], Phase::Denoise, "{phases:?}");
    assert_eq!(finished.sha256, whole);
}

#[tokio::test]
async fn a_wait_for_a_file_ends_with_a_cancel() {
    let Some(mut bench) = Bench::sharing().await else {
        return;
    };
    bench.load_arriving().await;
    let request = bench.request("a lake");
    let mut render = bench.engine.render(request, None).unwrap();
    let failure = loop {
        match render.next().await {
            RenderEvent::Phase(Phase::Load) => render.cancel("it will not come").unwrap(),
            RenderEvent::Failed(failure) => break failure,
            RenderEvent::Finished(_) => panic!("a file is missing"),
            _ => {}
        }
    };
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert!(failure.engine_alive);
}

#[tokio::test]
async fn text_is_encoded_once_and_what_is_of_another_text_is_passed_over() {
    let Some(mut bench) = Bench::sharing().await else {
        return;
    };
    let load = Load {
        pack_dir: tiny_pack().parent().map(Path::to_owned),
        verified: true,
        ..Load::of(MODEL)
    };
    bench.engine.load(load).await.unwrap();
    let request = bench.request("a dune");
    let events = bench.all(request).await;
    let [info] = &embeddings(&events)[..] else {
        panic!("{events:?}");
    };
    assert_eq!(sha256(&info.path), info.sha256);
    assert_eq!(std::fs::metadata(&info.path).unwrap().len(), info.bytes);
    let given = EmbeddingsFile {
        path: info.path.clone(),
        sha256: info.sha256.clone(),
    };
    let mut request = bench.request("a dune");
    request.embeddings = Some(given.clone());
    let again = bench.all(request).await;
    assert_eq!(embeddings(&again), []);
    assert_eq!(finished(&again).sha256, finished(&events).sha256);
    let wrong_hash = EmbeddingsFile {
        sha256: "0".repeat(64),
        ..given.clone()
    };
    for (prompt, given) in [("another dune", given), ("a dune", wrong_hash)] {
        let mut request = bench.request(prompt);
        request.embeddings = Some(given);
        let events = bench.all(request).await;
        assert_eq!(embeddings(&events).len(), 1);
        finished(&events);
    }
}

/// What the worker looks for before it hands a checkpoint over is what the engine writes.
#[tokio::test]
async fn every_checkpoint_of_a_known_format_passes_the_workers_look() {
    let mut bench = Bench::new().await;
    if bench.engine.hello().checkpoint_format.as_deref() != Some(CHECKPOINT_FORMAT) {
        return;
    }
    let image = bench.dir.path().join("image.png");
    std::fs::write(&image, tiny_png()).unwrap();
    for (model, with_image, quality) in [
        (Model::T2vA14b, false, None),
        // Another solver, with less to remember.
        (Model::T2vA14b, false, Some("fast")),
        (Model::I2vA14b, true, None),
        (Model::Ti2v5b, false, None),
        (Model::Ti2v5b, true, None),
    ] {
        bench.engine.load(Load::of(model.as_str())).await.unwrap();
        let mut request = bench.request("a mountain");
        request.task.model = model.as_str().into();
        request.task.image = with_image.then(|| image.clone());
        request.task.quality = quality.map(str::to_owned);
        if quality.is_some() {
            (request.task.guidance, request.task.guidance_2) = (1.0, Some(1.0));
        }
        let spec = spec(model, &request.task);
        let made = checkpoints(&bench.all(request).await);
        assert_eq!(made.len(), STEPS as usize);
        for info in made {
            inspect(&info.path, &spec, info.next_step).unwrap();
            assert!(inspect(&info.path, &spec, info.next_step + 1).is_err());
        }
    }
}

fn spec(model: Model, task: &RenderTask) -> TaskSpec {
    let request = TaskRequest {
        model: Model::T2vA14b.as_str().into(),
        prompt: task.prompt.clone(),
        steps: Some(task.steps),
        ..TaskRequest::default()
    };
    let spec = request.validate(ambient::now()).unwrap().spec;
    TaskSpec {
        model,
        width: task.width,
        height: task.height,
        frames: task.frames,
        ..spec
    }
}
