//! What every engine must do, run against the command in `SPOTREEL_ENGINE` (default: the simulated engine with
//! faults). Tests of faults run only against an engine that says it has them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use spotreel_bootstrap::ambient;
use spotreel_domain::request::TaskSpec;
use spotreel_domain::{Model, TaskRequest};
use spotreel_packs::Pack;
use spotreel_worker::checkpoints::inspect::inspect;
use spotreel_worker::engine::protocol::{
    CHECKPOINT_FORMAT, CheckpointInfo, CheckpointPolicy, EmbeddingsFile, EmbeddingsInfo, ErrorKind,
    FEATURE_FAULTS, FinishedInfo, Phase, RenderRequest, RenderTask, ResumeFrom, ResumeKind,
};
use spotreel_worker::engine::{
    Deadlines, Engine, EngineConfig, EngineError, EngineFailure, Graces, Load, RenderEvent,
};
use spotreel_worker::gate::{self, Expectation, GateError};
use tempfile::TempDir;

const STEPS: u32 = 6;
const LATE: &str = "transformer_2/diffusion_pytorch_model.safetensors";
const MODEL: &str = "t2v-A14B";

fn command() -> Vec<String> {
    static COMMAND: OnceLock<Vec<String>> = OnceLock::new();
    let command = COMMAND.get_or_init(|| match std::env::var("SPOTREEL_ENGINE") {
        Ok(command) => command.split_whitespace().map(str::to_owned).collect(),
        Err(_) => [&sim().display().to_string(), "--allow-faults", "--packs"]
            .map(str::to_owned)
            .to_vec(),
    });
    command.clone()
}

/// Beside this test's own binary; built if nobody did.
fn sim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let path = profile.join("spotreel-engine-sim");
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "spotreel-engine-sim", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    }
    path
}

fn config() -> EngineConfig {
    let command = command();
    EngineConfig {
        args: command[1..].to_vec(),
        graces: Graces {
            dump: Duration::from_millis(50),
            terminate: Duration::from_secs(2),
            hang_up: Duration::from_secs(2),
        },
        ..EngineConfig::new(&command[0])
    }
}

struct Bench {
    engine: Engine,
    dir: TempDir,
    renders: u32,
}

impl Bench {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: EngineConfig) -> Self {
        let mut engine = Engine::spawn(config).await.unwrap();
        engine.load(Load::of(MODEL)).await.unwrap();
        Self {
            engine,
            dir: tempfile::tempdir().unwrap(),
            renders: 0,
        }
    }

    /// `None` when the engine has no faults to show.
    async fn faulty() -> Option<Self> {
        let bench = Self::new().await;
        let features = &bench.engine.hello().features;
        features
            .iter()
            .any(|f| f == FEATURE_FAULTS)
            .then_some(bench)
    }

    /// `None` when the engine shares no encoded text.
    async fn sharing() -> Option<Self> {
        let bench = Self::new().await;
        bench.engine.hello().embeddings.is_some().then_some(bench)
    }

    /// Loads a pack of which the second expert is still on its way; says where it will lie.
    async fn load_arriving(&mut self) -> PathBuf {
        let packs = self.dir.path().join("packs");
        let to = packs.join(MODEL);
        for file in Pack::open(&tiny_pack()).unwrap().index.files {
            if file.path != LATE {
                let to = to.join(&file.path);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(tiny_pack().join(&file.path), to).unwrap();
            }
        }
        std::fs::copy(tiny_pack().join("pack.json"), to.join("pack.json")).unwrap();
        std::fs::create_dir_all(to.join(LATE).parent().unwrap()).unwrap();
        let load = Load {
            pack_dir: Some(packs),
            verified: true,
            arriving: vec![LATE.into()],
            ..Load::of(MODEL)
        };
        self.engine.load(load).await.unwrap();
        to.join(LATE)
    }

    fn request(&mut self, prompt: &str) -> RenderRequest {
        self.renders += 1;
        let dir = self.dir.path().join(self.renders.to_string());
        let (work_dir, out_dir) = (dir.join("work"), dir.join("out"));
        std::fs::create_dir_all(&work_dir).unwrap();
        std::fs::create_dir_all(&out_dir).unwrap();
        RenderRequest {
            id: "task-1".to_owned(),
            attempt: 1,
            task: RenderTask {
                model: MODEL.to_owned(),
                prompt: prompt.to_owned(),
                negative_prompt: None,
                width: 128,
                height: 96,
                frames: 9,
                fps: 16,
                quality: None,
                steps: STEPS,
                guidance: 4.0,
                guidance_2: Some(3.0),
                shift: 12.0,
                seed: 7,
                image: None,
            },
            work_dir,
            out_dir,
            resume: None,
            embeddings: None,
            checkpoint: CheckpointPolicy {
                every_steps: 1,
                min_interval_s: 0.0,
            },
        }
    }

    async fn all(&mut self, request: RenderRequest) -> Vec<RenderEvent> {
        let mut render = self.engine.render(request, None).unwrap();
        let mut events = Vec::new();
        loop {
            events.push(render.next().await);
            if let Some(RenderEvent::Finished(_) | RenderEvent::Failed(_)) = events.last() {
                return events;
            }
        }
    }

    async fn video(&mut self, request: RenderRequest) -> FinishedInfo {
        finished(&self.all(request).await)
    }

    async fn failure(&mut self, prompt: &str) -> EngineFailure {
        let request = self.request(prompt);
        let pid = self.engine.pid();
        let failure = failed(&self.all(request).await);
        assert_eq!(failure.engine_alive, self.engine.is_alive());
        if !failure.engine_alive {
            assert_nothing_left(pid).await;
        }
        failure
    }
}

fn finished(events: &[RenderEvent]) -> FinishedInfo {
    match events.last() {
        Some(RenderEvent::Finished(info)) => info.clone(),
        other => panic!("not finished: {other:?}"),
    }
}

fn failed(events: &[RenderEvent]) -> EngineFailure {
    match events.last() {
        Some(RenderEvent::Failed(failure)) => failure.clone(),
        other => panic!("not failed: {other:?}"),
    }
}

fn checkpoints(events: &[RenderEvent]) -> Vec<CheckpointInfo> {
    let infos = events.iter().filter_map(|event| match event {
        RenderEvent::Checkpoint(info) => Some(info.clone()),
        _ => None,
    });
    infos.collect()
}

fn sha256(path: &Path) -> String {
    let hash = Sha256::digest(std::fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expectation(task: &RenderTask) -> Expectation {
    Expectation {
        width: task.width,
        height: task.height,
        frames: task.frames,
        fps: task.fps,
    }
}

fn tiny_pack() -> PathBuf {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/wan/packs/tiny");
    packs.join(MODEL)
}

fn embeddings(events: &[RenderEvent]) -> Vec<EmbeddingsInfo> {
    let infos = events.iter().filter_map(|event| match event {
        RenderEvent::Embeddings(info) => Some(info.clone()),
        _ => None,
    });
    infos.collect()
}

/// The whole group is gone, but its leader may wait a moment for init to bury it.
async fn assert_nothing_left(pid: u32) {
    let group = Pid::from_raw(pid.try_into().unwrap());
    let end = Instant::now() + Duration::from_secs(5);
    while killpg(group, None) != Err(Errno::ESRCH) {
        assert!(Instant::now() < end, "something of engine {pid} is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

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

/// 1x1, black.
fn tiny_png() -> &'static [u8] {
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\nIDAT\x78\x9c\x63\x60\0\0\0\x02\0\x01\x48\xaf\xa4\x71\0\0\0\0IEND\xae\x42\x60\x82"
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

#[tokio::test]
async fn errors_that_are_reported_leave_the_engine_usable() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    for (prompt, kind) in [
        ("{{oom@2}}", ErrorKind::Oom),
        ("{{retryable@0}}", ErrorKind::Retryable),
        ("{{invalid@6}}", ErrorKind::Invalid),
    ] {
        let failure = bench.failure(prompt).await;
        assert_eq!(failure.kind, kind);
        assert!(failure.engine_alive);
    }
    let request = bench.request("a meadow");
    bench.video(request).await;
}

#[tokio::test]
async fn a_crash_is_retryable_and_names_the_signal() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{crash@3}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "engine_exited")
    );
    assert!(failure.message.contains("SIGABRT"), "{failure}");
    assert!(
        failure
            .log_tail
            .iter()
            .any(|line| line.contains("fault Crash"))
    );
    let request = bench.request("a meadow");
    assert!(bench.engine.render(request, None).is_err());
}

#[tokio::test]
async fn a_broken_accelerator_is_told_apart() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{device@1}}").await;
    assert_eq!(failure.kind, ErrorKind::Device);
    assert!(!failure.engine_alive);
    assert_eq!(bench.engine.exited().await.code(), Some(86));
}

#[tokio::test]
async fn garbage_on_the_channel_ends_the_engine() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{garbage@1}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "protocol")
    );
    assert!(!failure.engine_alive);
}

#[tokio::test]
async fn a_hang_ends_at_the_deadline() {
    let mut config = config();
    config.deadlines = Deadlines {
        step_floor: Duration::from_millis(300),
        first_step: Duration::from_secs(2),
        ..Deadlines::default()
    };
    let mut bench = Bench::with(config).await;
    if !bench
        .engine
        .hello()
        .features
        .iter()
        .any(|f| f == FEATURE_FAULTS)
    {
        return;
    }
    let failure = bench.failure("{{hang@3}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "deadline")
    );
    assert!(!failure.engine_alive);
    assert!(failure.log_tail.iter().any(|line| line.contains("SIGUSR1")));
}

#[tokio::test]
async fn noise_on_stdout_and_stderr_changes_nothing() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let request = bench.request("{{noise@2}}");
    bench.video(request).await;
    assert_eq!(bench.engine.log_tail().len(), 200);
}

#[tokio::test]
async fn a_checkpoint_with_a_wrong_hash_can_be_told() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let request = bench.request("{{bad_ckpt@1}}");
    let bad = checkpoints(&bench.all(request).await);
    let wrong = bad.iter().filter(|info| sha256(&info.path) != info.sha256);
    assert_eq!(wrong.count(), 1);
}

#[tokio::test]
async fn the_gate_refuses_black_frozen_and_truncated_videos() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    for prompt in ["{{black@0}}", "{{frozen@0}}", "{{truncated@0}}"] {
        let mut request = bench.request(prompt);
        // More than one keyframe interval: a still picture has other pixels after each keyframe.
        request.task.frames = 41;
        let expected = expectation(&request.task);
        let info = bench.video(request).await;
        let verdict = gate::check(&info.video, &expected);
        let right = match prompt {
            "{{black@0}}" => matches!(verdict, Err(GateError::Black)),
            "{{frozen@0}}" => matches!(verdict, Err(GateError::Frozen)),
            _ => matches!(verdict, Err(GateError::Mp4(_))),
        };
        assert!(right, "{prompt}: {verdict:?}");
    }
}

#[tokio::test]
async fn the_gate_survives_any_damage() {
    let mut bench = Bench::new().await;
    let request = bench.request("a wreck");
    let expected = expectation(&request.task);
    let video = std::fs::read(bench.video(request).await.video).unwrap();
    gate::check_bytes(&video, &expected).unwrap();
    for length in (0..video.len()).step_by(7) {
        assert!(gate::check_bytes(&video[..length], &expected).is_err());
    }
    // Damage in the pictures may go unnoticed; it only must not bring the gate down.
    for at in (0..video.len()).step_by(11) {
        for bits in [0x01, 0x80, 0xff] {
            let mut damaged = video.clone();
            damaged[at] ^= bits;
            let _verdict = gate::check_bytes(&damaged, &expected);
        }
    }
}

#[tokio::test]
async fn nothing_secret_reaches_the_engine() {
    let mut config = EngineConfig::new("/bin/sh");
    config.args = vec!["-c".into(), "env >&2; exit 3".into()];
    let Err(EngineError::Failed(failure)) = Engine::spawn(config).await else {
        panic!("a shell is no engine");
    };
    assert!(failure.message.contains("status 3"), "{failure}");
    let inherited = |line: &String| {
        let name = line.split('=').next().unwrap_or_default().to_owned();
        let known = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR"];
        let shell = ["PWD", "SHLVL", "_", "OLDPWD"];
        let set = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
        let named = [&known[..], &shell, &set].concat().contains(&&*name);
        named || name.starts_with("CUDA_") || name.starts_with("NVIDIA_")
    };
    let strangers: Vec<_> = failure
        .log_tail
        .iter()
        .filter(|line| !inherited(line))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

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
