//! How soon clients hear of a burst: until the last of its events is in EVENTS, beside the time until it is accepted.

use std::time::{Duration, Instant};

use serde_json::Value;
use spotreel_bus::jetstream;
use spotreel_bus::names::EVENTS;
use spotreel_tests::harness::{CloudProgram, Program};
use tempfile::TempDir;

use super::figure::{Figure, grouped};
use super::front::{Call, Front, Named};
use super::samples::Samples;
use super::server::{Server, Sync};
use super::tap::PATIENCE;

const GOAL: f64 = 1.2;
const TASKS: usize = 10_000;
const ROUNDS: usize = 5;
/// Between two looks at EVENTS.
const LOOK: Duration = Duration::from_millis(2);

pub async fn run() -> Vec<Figure> {
    let front = Front::over(Server::provisioned(Sync::Always, None).await).await;
    let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
    let cloud = CloudProgram::start().await;
    let spec = front.server.spec("notifier", dir.path());
    let _notifier = Program::start(spec.envs(cloud.access.variables())).await;
    let (mut told, mut accepted) = (Samples::default(), Samples::default());
    // The first round is not counted: connections are made in it.
    for round in 0..=ROUNDS {
        let times = burst(&front).await;
        if round > 0 {
            accepted.add(times.0);
            told.add(times.1);
        }
    }
    vec![Figure::new(
        &format!("{} tasks told / accepted, s", grouped(TASKS as u64)),
        told.p50(),
        accepted.p50(),
        Some(GOAL),
        format!(
            "from one call with a list until its last event is in EVENTS, and until its answer; intake and notifier at work \
             together, sync always; medians of {ROUNDS} rounds"
        ),
    )]
}

/// Seconds until a burst was accepted, and until it was told.
async fn burst(front: &Front) -> (f64, f64) {
    let wanted = last_event(front).await + TASKS as u64;
    let call = Call::list(TASKS, Named::ByIntake);
    let began = Instant::now();
    let accepted = async {
        front.submit(&call).await;
        began.elapsed().as_secs_f64()
    };
    let told = async {
        while last_event(front).await < wanted {
            assert!(began.elapsed() < PATIENCE, "the burst is not told");
            tokio::time::sleep(LOOK).await;
        }
        began.elapsed().as_secs_f64()
    };
    tokio::join!(accepted, told)
}

async fn last_event(front: &Front) -> u64 {
    let info: Value = jetstream::stream_info(&front.services, EVENTS)
        .await
        .expect("NATS answers");
    info["state"]["last_seq"]
        .as_u64()
        .expect("it has a sequence")
}
