//! An engine, a directory for what it makes, and what is asked of it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use spotreel_packs::Pack;
use spotreel_test_kit::binary;
use spotreel_worker::engine::protocol::{
    CheckpointInfo, CheckpointPolicy, EmbeddingsInfo, FEATURE_FAULTS, FinishedInfo, RenderRequest,
    RenderTask,
};
use spotreel_worker::engine::{Engine, EngineConfig, EngineFailure, Graces, Load, RenderEvent};
use spotreel_worker::gate::Expectation;
use tempfile::TempDir;

pub const STEPS: u32 = 6;
pub const LATE: &str = "transformer_2/diffusion_pytorch_model.safetensors";
pub const MODEL: &str = "t2v-A14B";

pub fn command() -> Vec<String> {
    static COMMAND: OnceLock<Vec<String>> = OnceLock::new();
    let command = COMMAND.get_or_init(|| match std::env::var("SPOTREEL_ENGINE") {
        Ok(command) => command.split_whitespace().map(str::to_owned).collect(),
        Err(_) => [
            &binary("spotreel-engine-sim").display().to_string(),
            "--allow-faults",
            "--packs",
        ]
        .map(str::to_owned)
        .to_vec(),
    });
    command.clone()
}

pub fn config() -> EngineConfig {
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

pub struct Bench {
    pub engine: Engine,
    pub dir: TempDir,
    renders: u32,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: EngineConfig) -> Self {
        let mut engine = Engine::spawn(config).await.unwrap();
        engine.load(Load::of(MODEL)).await.unwrap();
        Self {
            engine,
            dir: tempfile::tempdir().unwrap(),
            renders: 0,
        }
    }

    /// `None` when the engine has no faults to show.
    pub async fn faulty() -> Option<Self> {
        let bench = Self::new().await;
        let features = &bench.engine.hello().features;
        features
            .iter()
            .any(|f| f == FEATURE_FAULTS)
            .then_some(bench)
    }

    /// `None` when the engine shares no encoded text.
    pub async fn sharing() -> Option<Self> {
        let bench = Self::new().await;
        bench.engine.hello().embeddings.is_some().then_some(bench)
    }

    /// Loads a pack of which the second expert is still on its way; says where it will lie.
    pub async fn load_arriving(&mut self) -> PathBuf {
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

    pub fn request(&mut self, prompt: &str) -> RenderRequest {
        self.renders += 1;
        request(&self.dir.path().join(self.renders.to_string()), prompt)
    }

    pub async fn all(&mut self, request: RenderRequest) -> Vec<RenderEvent> {
        let mut render = self.engine.render(request, None).unwrap();
        let mut events = Vec::new();
        loop {
            events.push(render.next().await);
            if let Some(RenderEvent::Finished(_) | RenderEvent::Failed(_)) = events.last() {
                return events;
            }
        }
    }

    pub async fn video(&mut self, request: RenderRequest) -> FinishedInfo {
        finished(&self.all(request).await)
    }

    pub async fn failure(&mut self, prompt: &str) -> EngineFailure {
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

/// What a render is asked for, in directories of its own.
pub fn request(dir: &Path, prompt: &str) -> RenderRequest {
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
            loras: Vec::new(),
        },
        work_dir,
        out_dir,
        resume: None,
        embeddings: None,
        checkpoint: CheckpointPolicy {
            every_steps: 1,
            min_interval_s: 0.0,
        },
        preview: None,
    }
}

pub fn finished(events: &[RenderEvent]) -> FinishedInfo {
    match events.last() {
        Some(RenderEvent::Finished(info)) => info.clone(),
        other => panic!("not finished: {other:?}"),
    }
}

pub fn failed(events: &[RenderEvent]) -> EngineFailure {
    match events.last() {
        Some(RenderEvent::Failed(failure)) => failure.clone(),
        other => panic!("not failed: {other:?}"),
    }
}

pub fn checkpoints(events: &[RenderEvent]) -> Vec<CheckpointInfo> {
    let infos = events.iter().filter_map(|event| match event {
        RenderEvent::Checkpoint(info) => Some(info.clone()),
        _ => None,
    });
    infos.collect()
}

pub fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
}

pub fn expectation(task: &RenderTask) -> Expectation {
    Expectation {
        width: task.width,
        height: task.height,
        frames: task.frames,
        fps: task.fps,
    }
}

pub fn tiny_pack() -> PathBuf {
    spotreel_test_kit::tiny_pack(MODEL)
}

pub fn embeddings(events: &[RenderEvent]) -> Vec<EmbeddingsInfo> {
    let infos = events.iter().filter_map(|event| match event {
        RenderEvent::Embeddings(info) => Some(info.clone()),
        _ => None,
    });
    infos.collect()
}

/// The whole group is gone, but its leader may wait a moment for init to bury it.
pub async fn assert_nothing_left(pid: u32) {
    let group = Pid::from_raw(pid.try_into().unwrap());
    let end = Instant::now() + Duration::from_secs(5);
    while killpg(group, None) != Err(Errno::ESRCH) {
        assert!(Instant::now() < end, "something of engine {pid} is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// 1x1, black.
pub fn tiny_png() -> &'static [u8] {
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\nIDAT\x78\x9c\x63\x60\0\0\0\x02\0\x01\x48\xaf\xa4\x71\0\0\0\0IEND\xae\x42\x60\x82"
}

/// Longer than the slowest engine takes to begin.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
