//! What the worker costs the engine: how long it waits between two tasks, and what checkpoints take from its steps. The
//! engine's own words say so, heard by a tap between the two.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use spotreel_tests::harness::{System, SystemOptions, eventually, tasks};

use super::engine_tap::{self, Passed};
use super::figure::Figure;
use super::path::ms_between;
use super::samples::Samples;

const IDLE_GOAL: f64 = 0.005;
const CHECKPOINT_GOAL: f64 = 1.01;
/// As on a fast GPU: ten make a render of two seconds.
const STEP_MS: u32 = 200;
const STEPS: u32 = 10;
const TASKS: usize = 16;
/// Renders with checkpoints and without, in turn.
const PAIRS: usize = 3;
const LONG_STEPS: u32 = 25;
const DONE_WITHIN: Duration = Duration::from_secs(180);

pub async fn run() -> Vec<Figure> {
    let mut figures = idle().await;
    figures.push(Box::pin(checkpoints()).await);
    figures
}

async fn system() -> System {
    System::start(SystemOptions {
        lease: Duration::from_secs(30),
        workers: 0,
        step_ms: STEP_MS,
        ..SystemOptions::default()
    })
    .await
}

/// One more worker, with the tap before its engine.
async fn tapped(system: &mut System, log: &Path, every_steps: u32) -> usize {
    let tap = std::env::current_exe().expect("a program knows where it lies");
    let mut command = vec![
        tap.display().to_string(),
        "--engine-tap".to_owned(),
        log.display().to_string(),
        "--".to_owned(),
    ];
    command.extend(system.site.programs.engine(Some(STEP_MS.into())));
    let spec = system
        .worker_spec()
        .engine(&command)
        .set("checkpoint.every_steps", &every_steps.to_string());
    system.add_worker_as(spec).await
}

async fn submit_and_wait(system: &System, all: &[Value]) {
    let api = system.api().await;
    let answer = api.submit_many(all).await;
    assert_eq!(answer.refused, 0, "{:?}", answer.results);
    for task in all {
        let id = task["id"].as_str().expect("it has an id");
        api.until(id, "succeeded", DONE_WITHIN).await;
    }
}

async fn idle() -> Vec<Figure> {
    let mut system = system().await;
    let log = system.dir().join("engine.tap");
    // As shipped: every ten steps.
    tapped(&mut system, &log, 10).await;
    let all: Vec<_> = (0..TASKS)
        .map(|_| tasks::small(&tasks::name("idle"), STEPS))
        .collect();
    submit_and_wait(&system, &all).await;
    let (mut waits, mut renders) = (Samples::default(), Samples::default());
    let mut begun = None;
    let mut ended = None;
    for passed in engine_tap::read(&log) {
        match passed.what.as_str() {
            "render" => {
                waits.extend(ended.take().map(|ended| ms_between(ended, passed.at)));
                begun = Some(passed.at);
            }
            "finished" => {
                renders.extend(begun.take().map(|begun| ms_between(begun, passed.at)));
                ended = Some(passed.at);
            }
            _ => {}
        }
    }
    assert_eq!(renders.count(), TASKS, "the tap has heard every render");
    let setting = |beside: &str| {
        format!(
            "from the engine's `finished` to the next `render`, {} gaps between {TASKS} queued tasks of {STEPS} steps of {STEP_MS} ms \
             each, a whole system with one worker, sync always; against the p50 of `render` to `finished`; {beside}the video of the \
             one before is checked and uploaded meanwhile",
            waits.count()
        )
    };
    let figure = |percentile: f64, goal: Option<f64>, beside: &str| {
        Figure::new(
            &format!("engine idle between two tasks, p{percentile:.0}, ms"),
            waits.percentile(percentile),
            renders.p50(),
            goal,
            setting(beside),
        )
    };
    vec![
        figure(50.0, Some(IDLE_GOAL), ""),
        figure(99.0, None, "no goal, for comparison; "),
    ]
}

async fn checkpoints() -> Figure {
    let mut system = system().await;
    let (mut with, mut without) = (Samples::default(), Samples::default());
    for pair in 0..PAIRS {
        for (every, steps) in [(1, &mut with), (0, &mut without)] {
            let log = system.dir().join(format!("engine-{pair}-{every}.tap"));
            let worker = tapped(&mut system, &log, every).await;
            let task = json!({ "id": tasks::name("ckpt"), "model": "ti2v-5B", "prompt": "a red fox in the snow",
                               "frames": 121, "steps": LONG_STEPS, "seed": 7 });
            submit_and_wait(&system, &[task]).await;
            let passed = engine_tap::read(&log);
            let made = passed.iter().filter(|p| p.what == "checkpoint").count();
            assert_eq!(made > 0, every > 0, "checkpoints as asked for");
            steps.extend(step_times(&passed));
            let worker = &mut system.workers[worker];
            eventually("the worker leaves", DONE_WITHIN, || {
                worker.terminate();
                let ended = worker.has_ended();
                async move { ended.then_some(()) }
            })
            .await;
        }
    }
    let setting = format!(
        "mean milliseconds from step to step of the simulated engine at {STEP_MS} ms a step, a checkpoint of 5.2 MB after every \
         step, written, hashed and uploaded, against none at all; ti2v-5B at its full size, {PAIRS} renders of {LONG_STEPS} steps each, in turn"
    );
    Figure::new(
        "a step with a checkpoint / without, ms",
        with.mean(),
        without.mean(),
        Some(CHECKPOINT_GOAL),
        setting,
    )
}

/// Milliseconds between the steps of each render.
fn step_times(passed: &[Passed]) -> Vec<f64> {
    let mut last = BTreeMap::new();
    let mut times = Vec::new();
    for step in passed.iter().filter(|p| p.what == "step") {
        if let Some(before) = last.insert(&step.id, step.at) {
            times.push(ms_between(before, step.at));
        }
    }
    times
}
