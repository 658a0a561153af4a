//! A machine is taken, and its task goes on on another: from the poll that saw the notice to the start on a warm worker.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use spotreel_api::Progress;
use spotreel_bootstrap::ambient;
use spotreel_bus::kv;
use spotreel_domain::fleet::cloud::{LaunchRequest, Lifecycle, Override, Place, tag};
use spotreel_localcloud::{Interruption, InterruptionKind};
use spotreel_proto::worker::v1::State;
use spotreel_tests::harness::{eventually, tasks};

use super::bounds::Bounds;
use super::figure::Figure;
use super::path::ms_between;
use super::samples::Samples;
use super::stage::{KIND, STEP_MS, Stage};
use super::tap::{PATIENCE, now_us};

const GOAL: f64 = 3.0;
/// The most that a task may have.
const STEPS: u32 = 60;
/// An attempt is struck once it has made so many steps, and has so many left.
const DONE: u32 = 3;
const LEFT: u32 = 25;
/// Shorter than what a worker keeps of a notice: the task is handed back, whatever is left of it.
const LEAD_S: f64 = 10.0;
/// Reading consoles would take the processor from those who are measured.
const CONSOLE_AFTER: Duration = Duration::from_millis(50);
/// Launches at once; more is refused by nobody, and needs more memory than a laptop likes to give.
const MACHINES: usize = 8;

pub async fn run(stage: &Stage, bounds: &mut Bounds, rounds: usize) -> Vec<Figure> {
    let (mut took, mut back, mut started) =
        (Samples::default(), Samples::default(), Samples::default());
    while took.count() < rounds {
        let idle = idle(stage).await;
        if idle.len() < 2 {
            launch(
                stage,
                idle.len() + (rounds - took.count() + 1).min(MACHINES),
            )
            .await;
        }
        if !is_one_busy(stage).await {
            let id = tasks::name("notice");
            stage.api.submit(&tasks::small(&id, STEPS)).await;
        }
        let Some(victim) = in_the_middle(stage).await else {
            continue;
        };
        let struck = now_us();
        let order = Interruption {
            instance: Some(victim.clone()),
            kind: InterruptionKind::Notice,
            lead_s: LEAD_S,
        };
        if stage.cloud.interrupt(&order).is_none() {
            continue;
        }
        let ended = stage.tap.find("the attempt ends", |heard| {
            heard.at > struck && ["task interrupted", "task succeeded"].contains(&&*heard.what)
        });
        // It may have been done before it looked for a notice.
        if ended.await.what == "task succeeded" {
            continue;
        }
        let again = stage.tap.first("task started", struck).await;
        tokio::time::sleep(CONSOLE_AFTER).await;
        let handed = said(stage, &victim, "attempt handed back", struck).await;
        let seen = said(stage, &victim, "worker is leaving", struck).await;
        let heir = heir(stage, &victim, seen).await;
        took.add(ms_between(seen, heir));
        back.add(ms_between(seen, handed));
        started.add(ms_between(seen, again.at));
        let bytes = newest_checkpoint(stage).await;
        bounds.measure_storage(bytes).await;
    }
    let (append, put, list) = (bounds.append.p50(), bounds.put.p50(), bounds.list.p50());
    let bound = put + list + 2.0 * append;
    let setting = |beside: &str| {
        format!(
            "from the worker's line about the notice to the other worker's line that its `started` is stored, {} rounds; \
             bound: one checkpoint put of {put:.2} ms, `interrupted` and `started` of {append:.2} ms each, one listing \
             of checkpoints of {list:.2} ms; {beside}the way, in ms: checkpoint stored and handed back {:.1}, started asked for {:.1}; \
             the step under way (steps of {STEP_MS} ms) is part of ours and not of the bound",
            took.count(),
            back.p50(),
            started.p50()
        )
    };
    let named = |percentile: &str| format!("notice to running on a warm worker, {percentile}, ms");
    let beside = "no goal, for comparison; ";
    vec![
        Figure::new(&named("p50"), took.p50(), bound, Some(GOAL), setting("")),
        Figure::new(&named("p99"), took.p99(), bound, None, setting(beside)),
    ]
}

/// So many idle workers, each on a machine of its own.
async fn launch(stage: &Stage, workers: usize) {
    let there = idle(stage).await.len();
    let subnet = &stage.subnets[0];
    let units = u32::try_from(workers.saturating_sub(there)).expect("a handful");
    let request = LaunchRequest {
        client_token: ambient::uuid_v4().simple().to_string(),
        template: stage.template.clone(),
        lifecycle: Lifecycle::Spot,
        units,
        overrides: vec![Override {
            place: Place {
                kind: KIND.to_owned(),
                zone: subnet.zone.clone(),
            },
            subnet: subnet.id.clone(),
            max_price: None,
        }],
        tags: BTreeMap::from([(tag::ENV.to_owned(), "bench-notice".to_owned())]),
    };
    stage
        .ec2
        .launch(&request)
        .await
        .expect("the cloud launches");
    eventually("all workers serve", PATIENCE, || async {
        (idle(stage).await.len() >= workers).then_some(())
    })
    .await;
    stage.tap.quiet().await;
}

async fn idle(stage: &Stage) -> Vec<String> {
    let all = kv::presences(&stage.client).await.unwrap_or_default();
    let idle = all.into_iter().filter(|p| p.state() == State::Idle);
    idle.map(|presence| presence.instance).collect()
}

async fn is_one_busy(stage: &Stage) -> bool {
    let all = kv::presences(&stage.client).await.unwrap_or_default();
    all.iter().any(|p| p.state() == State::Busy)
}

/// A worker that is well under way, and not about to end. None: nobody is for now.
async fn in_the_middle(stage: &Stage) -> Option<String> {
    let progress = stage.client.subscribe("spotreel.progress.*").await;
    let mut progress = progress.expect("the bench may hear everything");
    let mut steps = BTreeMap::<String, u32>::new();
    let within = async {
        while let Some(message) = progress.next().await {
            let Ok(told) = serde_json::from_slice::<Progress>(&message.payload) else {
                continue;
            };
            let seen = steps.entry(told.worker.clone()).or_default();
            *seen += 1;
            if *seen > DONE && told.step + LEFT <= STEPS {
                return Some(told.worker);
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(2), within)
        .await
        .ok()
        .flatten()
}

/// When a worker logged this, after `from`.
async fn said(stage: &Stage, instance: &str, words: &str, from: i64) -> i64 {
    eventually(&format!("{instance} says {words:?}"), PATIENCE, || async {
        let mut lines = stage.said(instance).into_iter();
        let found = lines.find(|(at, line, _)| *at > from && line == words);
        found.map(|(at, ..)| at)
    })
    .await
}

/// When another worker logged that it has started the task.
async fn heir(stage: &Stage, victim: &str, from: i64) -> i64 {
    eventually(
        "another worker says that it has started",
        PATIENCE,
        || async {
            let others = stage.cloud.instances().into_iter();
            let others = others.filter(|other| other.id != victim && other.state == "running");
            let lines = others.flat_map(|other| stage.said(&other.id));
            let starts = lines.filter(|(at, words, _)| *at > from && words == "started");
            starts.map(|(at, ..)| at).min()
        },
    )
    .await
}

/// How large the checkpoints are that the engine makes.
async fn newest_checkpoint(stage: &Stage) -> usize {
    let listed = stage.store.list("checkpoints/").await.unwrap_or_default();
    let bytes = listed.iter().map(|object| object.bytes).max().unwrap_or(0);
    usize::try_from(bytes).unwrap_or_default()
}
