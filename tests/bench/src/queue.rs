//! The service's look at a real queue of a million tasks against one of ten: trigger's own, by the question that makes it
//! look, at two servers in turn.

use std::time::{Duration, Instant};

use async_nats::{Client, Request};
use spotreel_api::Why;
use spotreel_bus::log::MAX_BATCH;
use spotreel_tests::harness::Program;
use spotreel_tests::harness::fleet::Mark;
use tempfile::TempDir;

use super::bounds::ms;
use super::figure::{Figure, grouped};
use super::filled::Filled;
use super::samples::Samples;
use super::tap::PATIENCE;

const GOAL: f64 = 1.05;
const LOOKS: usize = 150;
/// Looks of a trigger that has just begun: connections are made, and the last hour's arrivals are read from the log.
const NOT_COUNTED: usize = 15;
/// Longer than trigger rests between two looks.
const REST: Duration = Duration::from_millis(25);

struct Queue {
    /// Of the clients' account, as whoever asks why.
    client: Client,
    tasks: u64,
    _mark: Mark,
    _trigger: Program,
    _dir: TempDir,
}

pub async fn run(short: &Filled, long: &Filled) -> Vec<Figure> {
    let (few, many, filled) = (short.tasks, long.tasks, long.took);
    let (short, long) = (Queue::over(short).await, Queue::over(long).await);
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for look in 0..NOT_COUNTED + LOOKS {
        let (ours, reference) = (long.look().await, short.look().await);
        if look >= NOT_COUNTED {
            a.add(ours);
            b.add(reference);
        }
    }
    let setting = |percentile: &str, goal: &str| {
        format!(
            "`spotreel.why`, which makes the real trigger look anew (counts of nine consumers, oldest entries, presences, \
             marks, orders, batch log, decide), at two nats-servers in turn with {many} and {few} tasks in TASKS, \
             {percentile} of {LOOKS} each, sync always; {goal}filled in {filled} s by atomic batches of {MAX_BATCH}"
        )
    };
    let name = |percentile: &str| {
        format!(
            "trigger's look at {} / at {few}, {percentile}, ms",
            grouped(many)
        )
    };
    vec![
        Figure::new(
            &name("p50"),
            a.p50(),
            b.p50(),
            Some(GOAL),
            setting("p50", ""),
        ),
        Figure::new(
            &name("p99"),
            a.p99(),
            b.p99(),
            None,
            setting("p99", "no goal, for comparison; "),
        ),
    ]
}

impl Queue {
    async fn over(filled: &Filled) -> Self {
        let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
        // A pool with machines of its own: the rules are held against the queue, and nothing is launched.
        let trigger = filled.server.spec("trigger", dir.path());
        Self {
            _mark: Mark::keep(&filled.server.client("provision").await),
            client: filled.server.client("client").await,
            tasks: filled.tasks,
            _trigger: Program::start(trigger).await,
            _dir: dir,
        }
    }

    /// Milliseconds of one look.
    async fn look(&self) -> f64 {
        tokio::time::sleep(REST).await;
        let request = Request::new().payload("{}".into()).timeout(Some(PATIENCE));
        let began = Instant::now();
        let answer = self.client.send_request("spotreel.why".to_owned(), request);
        let answer = answer.await.expect("trigger answers");
        let took = ms(began);
        let why: Why = serde_json::from_slice(&answer.payload).expect("trigger says why");
        let queued: u64 = why.pools.iter().map(|pool| pool.view.queued).sum();
        assert_eq!(
            (queued, why.error),
            (self.tasks, None),
            "trigger sees the whole queue"
        );
        took
    }
}
