//! The service's look at a real queue of a million tasks against one of ten: trigger's own, by the question that makes it
//! look, at two servers in turn.

use std::time::{Duration, Instant};

use async_nats::{Client, Request};
use futures::stream::StreamExt;
use spotreel_bootstrap::ambient;
use spotreel_bus::TaskLog;
use spotreel_bus::log::{Append, MAX_BATCH};
use spotreel_bus::provision::Layout;
use spotreel_domain::ops::Why;
use spotreel_domain::{Task, TaskId, TaskRequest};
use tempfile::TempDir;

use super::bounds::ms;
use super::decide::FEW;
use super::figure::Figure;
use super::samples::Samples;
use super::stage::Mark;
use super::tap::PATIENCE;
use crate::harness::nats::{layout, password, provision};
use crate::harness::program::Spec;
use crate::harness::{Nats, Program};

const GOAL: f64 = 1.05;
const LOOKS: usize = 150;
/// Looks of a trigger that has just begun: connections are made, and the last hour's arrivals are read from the log.
const NOT_COUNTED: usize = 15;
/// Longer than trigger rests between two looks.
const REST: Duration = Duration::from_millis(25);
/// Batches on their way at once: one is made while others are stored.
const AT_ONCE: usize = 4;

struct Queue {
    /// Of the clients' account, as whoever asks why.
    client: Client,
    _mark: Mark,
    _trigger: Program,
    _dir: TempDir,
    _nats: Nats,
}

pub async fn run(many: u64) -> Vec<Figure> {
    let began = Instant::now();
    let (short, long) = tokio::join!(Queue::of(FEW), Queue::of(many));
    let filled = began.elapsed().as_secs();
    let (mut a, mut b) = (Samples::default(), Samples::default());
    for look in 0..NOT_COUNTED + LOOKS {
        let (ours, reference) = (long.look(many).await, short.look(FEW).await);
        if look >= NOT_COUNTED {
            a.add(ours);
            b.add(reference);
        }
    }
    let setting = |percentile: &str, goal: &str| {
        format!(
            "`spotreel.why`, which makes the real trigger look anew (counts of nine consumers, oldest entries, presences, \
             marks, orders, batch log, decide), at two nats-servers in turn with {many} and {FEW} tasks in TASKS, \
             {percentile} of {LOOKS} each, sync always; {goal}filled in {filled} s by atomic batches of {MAX_BATCH}"
        )
    };
    let name = |percentile: &str| {
        format!(
            "trigger's look at {} / at {FEW}, {percentile}, ms",
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
    async fn of(tasks: u64) -> Self {
        let nats = Nats::start().await;
        let sizes = Layout {
            tasks_max_bytes: 4 << 30,
            ..layout(Duration::from_secs(30), 1)
        };
        provision(&nats.url, &sizes).await;
        let client = nats.client("provision").await;
        fill(&client, tasks).await;
        let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
        // A pool with machines of its own: the rules are held against the queue, and nothing is launched.
        let trigger = Spec::new("trigger", dir.path())
            .env("SPOTREEL_NATS__URL", &nats.url)
            .env("SPOTREEL_NATS__USER", "trigger")
            .env("SPOTREEL_NATS__PASSWORD", &password("trigger"));
        Self {
            _mark: Mark::keep(&client),
            client: nats.client("client").await,
            _trigger: Program::start(trigger).await,
            _dir: dir,
            _nats: nats,
        }
    }

    /// Milliseconds of one look.
    async fn look(&self, tasks: u64) -> f64 {
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
            (tasks, None),
            "trigger sees the whole queue"
        );
        took
    }
}

async fn fill(client: &Client, tasks: u64) {
    let log = TaskLog::open(client).await;
    let request = TaskRequest {
        model: "ti2v-5B".into(),
        prompt: "a red fox in the snow".into(),
        ..TaskRequest::default()
    };
    let valid = request.validate(ambient::now()).expect("it is valid");
    let most = u64::try_from(MAX_BATCH).expect("a thousand");
    let batches = (0..tasks.div_ceil(most)).map(|number| {
        let (log, valid) = (log.clone(), valid.clone());
        let ids = number * most..(number * most + most).min(tasks);
        tokio::spawn(async move {
            let now = ambient::now();
            let appends: Vec<_> = ids
                .map(|id| {
                    let id = TaskId::parse(&format!("q{id}")).expect("it is an id");
                    let (spec, hash) = (valid.spec.clone(), valid.content_hash.clone());
                    let step = Task::submit(id, spec, hash, now);
                    Append::new(step, 0, ambient::uuid_v4())
                })
                .collect();
            let stored = log.append_batch(&appends, ambient::uuid_v4()).await;
            stored.expect("NATS stores");
        })
    });
    let mut stored = futures::stream::iter(batches).buffer_unordered(AT_ONCE);
    while let Some(done) = stored.next().await {
        done.expect("a batch was stored");
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
