//! Tasks that are rendered, whole, resumed or refused.

use std::path::Path;
use std::time::Duration;

use spotreel_worker::engine::protocol::{
    ErrorKind, FEATURE_LORAS, LoraFile, Phase, PreviewPolicy, ResumeFrom, ResumeKind,
};
use spotreel_worker::engine::{Engine, EngineError, Load, RenderEvent};
use spotreel_worker::gate;

use super::stage::{
    Bench, STEPS, assert_nothing_left, checkpoints, config, expectation, failed, finished, sha256,
    tiny_pack, tiny_png,
};

#[tokio::test]
async fn it_introduces_itself_and_leaves_when_asked() {
    let engine = Engine::spawn(config()).await.unwrap();
    assert!(!engine.hello().name.is_empty());
    let pid = engine.pid();
    assert!(engine.shutdown(Duration::from_secs(10)).await.success());
    assert_nothing_left(pid).await;
}

#[tokio::test]
async fn dropping_it_leaves_nothing() {
    let pid = Bench::new().await.engine.pid();
    assert_nothing_left(pid).await;
}

#[tokio::test]
async fn every_model_renders_what_was_asked_and_the_gate_agrees() {
    let mut bench = Bench::new().await;
    for model in bench.engine.hello().models.clone() {
        bench.engine.load(Load::of(&model)).await.unwrap();
        let mut request = bench.request("a lighthouse at dusk");
        request.task.model = model.clone();
        if model == "i2v-A14B" {
            let image = bench.dir.path().join("image.png");
            std::fs::write(&image, tiny_png()).unwrap();
            request.task.image = Some(image);
        }
        let expected = expectation(&request.task);
        let info = bench.video(request).await;
        let facts = gate::check(&info.video, &expected).unwrap();
        assert_eq!((facts.sha256, facts.bytes), (info.sha256, info.bytes));
    }
}

#[tokio::test]
async fn events_come_in_order() {
    let mut bench = Bench::new().await;
    let request = bench.request("a harbour");
    let events = bench.all(request).await;
    let none = RenderEvent::Accepted {
        start_step: 0,
        resume: ResumeKind::None,
    };
    assert_eq!(events[0], none);
    let steps = events.iter().filter_map(|event| match event {
        RenderEvent::Step(step) => Some((step.done, step.total)),
        _ => None,
    });
    let counted: Vec<_> = (1..=STEPS).map(|done| (done, STEPS)).collect();
    assert_eq!(steps.collect::<Vec<_>>(), counted);
    let phases: Vec<_> = events
        .iter()
        .filter(|e| matches!(e, RenderEvent::Phase(Phase::Denoise | Phase::Decode)))
        .collect();
    let expected = [
        RenderEvent::Phase(Phase::Denoise),
        RenderEvent::Phase(Phase::Decode),
    ];
    assert_eq!(phases, expected.iter().collect::<Vec<_>>());
    let checkpoints = checkpoints(&events);
    let next: Vec<_> = checkpoints.iter().map(|c| c.next_step).collect();
    assert_eq!(next, (1..=STEPS).collect::<Vec<_>>());
    for info in checkpoints {
        assert_eq!(sha256(&info.path), info.sha256);
    }
}

#[tokio::test]
async fn killed_after_any_step_it_resumes_to_the_same_bytes() {
    let mut whole = Bench::new().await;
    let request = whole.request("a river");
    let uninterrupted = whole.video(request).await.sha256;
    for kill_after in 1..=STEPS {
        let mut victim = Bench::new().await;
        let pid = victim.engine.pid();
        let request = victim.request("a river");
        let mut render = victim.engine.render(request, None).unwrap();
        let checkpoint = loop {
            match render.next().await {
                RenderEvent::Checkpoint(info) if info.next_step == kill_after => break info,
                RenderEvent::Failed(failure) => panic!("{failure}"),
                _ => {}
            }
        };
        drop(render);
        assert_nothing_left(pid).await;
        let mut heir = Bench::new().await;
        let mut request = heir.request("a river");
        request.attempt = 2;
        request.resume = Some(ResumeFrom {
            path: checkpoint.path,
            sha256: checkpoint.sha256,
        });
        let events = heir.all(request).await;
        let exact = RenderEvent::Accepted {
            start_step: kill_after,
            resume: ResumeKind::Exact,
        };
        assert_eq!(events[0], exact);
        assert_eq!(finished(&events).sha256, uninterrupted);
    }
}

#[tokio::test]
async fn a_checkpoint_on_demand_comes_during_a_step() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let mut request = bench.request("a slow train {{slow@0}}");
    request.checkpoint.every_steps = 0;
    let mut render = bench.engine.render(request, None).unwrap();
    let mut done = 0;
    while done < 2 {
        if let RenderEvent::Step(step) = render.next().await {
            done = step.done;
        }
    }
    render.checkpoint_now().unwrap();
    match render.next().await {
        RenderEvent::Checkpoint(info) => {
            assert_eq!(info.next_step, 2, "before the next step is done");
            assert_eq!(sha256(&info.path), info.sha256);
        }
        other => panic!("{other:?}"),
    }
}

/// And the video is the one without them.
#[tokio::test]
async fn pictures_of_the_unfinished_video_come_where_they_are_asked_for() {
    let mut bench = Bench::new().await;
    let request = bench.request("a heath");
    let events = bench.all(request).await;
    assert!(!events.iter().any(|e| matches!(e, RenderEvent::Preview(_))));
    let plain = finished(&events);
    assert!(is_jpeg(&plain.poster.unwrap()));
    let mut request = bench.request("a heath");
    request.preview = Some(PreviewPolicy { every_steps: 2 });
    let events = bench.all(request).await;
    let (mut done, mut shown) = (0, Vec::new());
    for event in &events {
        match event {
            RenderEvent::Step(step) => done = step.done,
            RenderEvent::Preview(path) => {
                assert!(is_jpeg(path));
                shown.push(done);
            }
            _ => {}
        }
    }
    let due: Vec<_> = (2..STEPS).step_by(2).collect();
    assert_eq!(shown, due);
    assert_eq!(finished(&events).sha256, plain.sha256);
}

fn is_jpeg(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(&[0xff, 0xd8, 0xff]))
}

#[tokio::test]
async fn loras_change_the_video_of_their_task_alone() {
    let mut bench = Bench::new().await;
    assert!(bench.engine.hello().has(FEATURE_LORAS));
    let path = tiny_pack().join("lora/high.safetensors");
    let lora = LoraFile {
        name: "fox".into(),
        sha256: sha256(&path),
        path,
        strength: 0.5,
        expert: Some("high".into()),
    };
    let mut videos = Vec::new();
    for loras in [vec![], vec![lora.clone()], vec![], vec![lora.clone()]] {
        let mut request = bench.request("a fox");
        request.task.loras = loras;
        videos.push(bench.video(request).await.sha256);
    }
    assert_eq!(videos[..2], videos[2..]);
    assert_ne!(videos[0], videos[1]);
    let mut request = bench.request("a fox");
    request.task.loras = vec![LoraFile {
        sha256: "0".repeat(64),
        ..lora
    }];
    let failure = failed(&bench.all(request).await);
    assert_eq!(failure.code, "lora_unreadable");
}

#[tokio::test]
async fn after_a_cancel_the_next_render_is_as_if_nothing_had_been() {
    let mut bench = Bench::new().await;
    let request = bench.request("a mill");
    let first = bench.video(request).await.sha256;
    let request = bench.request("a mill");
    let mut render = bench.engine.render(request, None).unwrap();
    render.cancel("the client changed its mind").unwrap();
    let failure = loop {
        match render.next().await {
            RenderEvent::Failed(failure) => break failure,
            RenderEvent::Finished(_) => panic!("the cancel came first"),
            _ => {}
        }
    };
    drop(render);
    assert_eq!(failure.kind, ErrorKind::Cancelled);
    assert!(failure.engine_alive);
    let request = bench.request("a mill");
    assert_eq!(bench.video(request).await.sha256, first);
}

#[tokio::test]
async fn checkpoints_that_are_broken_or_of_another_task_are_refused() {
    let mut bench = Bench::new().await;
    let request = bench.request("a bridge");
    let checkpoint = checkpoints(&bench.all(request).await)[2].clone();
    let resume = ResumeFrom {
        path: checkpoint.path.clone(),
        sha256: checkpoint.sha256.clone(),
    };
    let mut other_task = bench.request("another bridge");
    other_task.resume = Some(resume.clone());
    let mut other_steps = bench.request("a bridge");
    other_steps.task.steps += 1;
    other_steps.resume = Some(resume.clone());
    let mut other_bytes = bench.request("a bridge");
    other_bytes.resume = Some(ResumeFrom {
        sha256: "0".repeat(64),
        ..resume.clone()
    });
    let mut missing = bench.request("a bridge");
    missing.resume = Some(ResumeFrom {
        path: checkpoint.path.with_extension("gone"),
        ..resume
    });
    let mut cut = bench.request("a bridge");
    let half = std::fs::read(&checkpoint.path).unwrap();
    let path = bench.dir.path().join("half.ckpt");
    std::fs::write(&path, &half[..half.len() / 2]).unwrap();
    cut.resume = Some(ResumeFrom {
        sha256: sha256(&path),
        path,
    });
    for request in [other_task, other_steps, other_bytes, missing, cut] {
        let failure = failed(&bench.all(request).await);
        assert_eq!(failure.kind, ErrorKind::Checkpoint, "{failure}");
        assert!(failure.engine_alive);
    }
    let request = bench.request("a bridge");
    bench.video(request).await;
}

#[tokio::test]
async fn an_impossible_task_or_model_is_refused_and_the_engine_lives() {
    let mut bench = Bench::new().await;
    let mut request = bench.request("a cave");
    request.task.width = 130;
    let failure = failed(&bench.all(request).await);
    assert_eq!(failure.kind, ErrorKind::Invalid, "{failure}");
    let request = bench.request("a cave");
    bench.video(request).await;
    match bench.engine.load(Load::of("no-such-model")).await {
        Err(EngineError::Failed(failure)) => assert_eq!(failure.kind, ErrorKind::Model),
        other => panic!("{other:?}"),
    }
    assert!(bench.engine.is_alive());
}
