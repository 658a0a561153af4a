//! A queue becomes a machine, and the machine becomes nothing: how long the two ends of a batch take.

use spotreel_tests::harness::eventually;
use spotreel_tests::harness::tasks;

use super::bounds::Bounds;
use super::figure::Figure;
use super::path::Path;
use super::stage::Stage;
use super::tap::{PATIENCE, now_us};

/// Tasks that make a batch; which number it is makes no difference.
const THRESHOLD: u64 = 2;
/// So that the last task takes longer than fleet rests between two rounds.
const STEPS: u32 = 60;
/// Of the sum of its durable writes and calls.
const GOAL: f64 = 3.0;

pub async fn run(stage: &Stage, bounds: &mut Bounds, rounds: usize) -> Vec<Figure> {
    let _services = stage.services(THRESHOLD).await;
    let (mut launch, mut end) = (Path::default(), Path::default());
    // The first is not counted: connections are made in it.
    for counted in std::iter::once(false).chain(std::iter::repeat_n(true, rounds)) {
        stage.tap.quiet().await;
        bounds.measure().await;
        let sent = request(stage, &mut launch, counted).await;
        until_nothing(stage, &mut end, sent, counted).await;
    }
    let mut figures = Vec::new();
    for (what, path, from) in [
        (
            "deciding ack to CreateFleet",
            launch,
            "the client's ack of the task that meets the threshold",
        ),
        (
            "last ack to TerminateInstances",
            end,
            "the worker's ack of the last task's `succeeded`",
        ),
    ] {
        let (append, call) = (bounds.append.p50(), bounds.call.p50());
        let bound = path.writes() * append + path.calls() * call;
        let setting = |goal: &str| {
            format!(
                "from {from} to the request on the wire, {} rounds; bound: {} durable appends of {append:.2} ms and {} \
                 DescribeInstances of {call:.2} ms, counted on the wire; {goal}the way, in ms: {}",
                path.took.count(),
                path.writes(),
                path.calls(),
                path.story()
            )
        };
        let named = |percentile: &str| format!("{what}, {percentile}, ms");
        let (p50, p99) = (path.took.p50(), path.took.p99());
        figures.push(Figure::new(
            &named("p50"),
            p50,
            bound,
            Some(GOAL),
            setting(""),
        ));
        let beside = "no goal, for comparison; ";
        figures.push(Figure::new(
            &named("p99"),
            p99,
            bound,
            None,
            setting(beside),
        ));
    }
    figures
}

/// The task that decides; when it was sent.
async fn request(stage: &Stage, path: &mut Path, counted: bool) -> i64 {
    for _ in 1..THRESHOLD {
        stage.api.submit(&task()).await;
    }
    stage.tap.quiet().await;
    let deciding = task();
    let sent = now_us();
    stage.api.submit(&deciding).await;
    let acked = now_us();
    let called = stage.called("CreateFleet", sent).await;
    if counted {
        path.add(stage, sent, acked, called);
    }
    sent
}

async fn until_nothing(stage: &Stage, path: &mut Path, sent: i64, counted: bool) {
    let ended = stage.called("TerminateInstances", sent).await;
    let instance = stage.cloud.instances().pop().expect("one was launched").id;
    stage.tap.first("batch settled", sent).await;
    // The console is written by the worker, which has left by now.
    let last = eventually("the worker says what it did", PATIENCE, || async {
        let said = stage.said(&instance).into_iter();
        let done = said.filter(|(_, words, _)| words == "succeeded");
        done.map(|(at, ..)| at).max()
    })
    .await;
    if counted {
        path.add(stage, last, last, ended);
    }
}

fn task() -> serde_json::Value {
    tasks::small(&tasks::name("bench"), STEPS)
}
