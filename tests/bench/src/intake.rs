//! How many tasks a second intake takes, each validated, deduplicated by its id and on disk before it is acknowledged,
//! beside what a publisher without any of that gets from the same server.

use std::collections::VecDeque;
use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt;
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_bus::codec;
use spotreel_bus::log::{Append, MAX_BATCH};
use spotreel_bus::names::{HEADER_EXPECTED, HEADER_EXPECTED_FILTER, HEADER_OP};
use spotreel_domain::{Task, TaskId};

use super::figure::{Figure, grouped};
use super::front::{Call, Front, Named, task};
use super::samples::Samples;
use super::server::Sync;

const GOAL_ALWAYS: f64 = 8.0;
const GOAL_DEFAULT: f64 = 0.5;
/// Of ours and the bound in turn; the medians count.
const ROUNDS: usize = 5;
/// Publishes, or requests, that are on their way at once.
const IN_FLIGHT: usize = 1_024;
/// Tasks of one round: a second or so.
const TASKS: usize = 30_000;
const SINGLES: usize = 15_000;
/// Messages of one round of the bound, a second or so.
const RAW_ALWAYS: usize = 4_000;
const RAW_DEFAULT: usize = 60_000;
/// Calls with lists on their way at once.
const LISTS_AT_ONCE: usize = 4;

const STREAM: &str = "RAW";

/// Tasks a second of each kind.
#[derive(Default)]
struct Rates {
    raw: Samples,
    guarded: Samples,
    batches: Samples,
    thousands: Samples,
    ten_thousands: Samples,
    named: Samples,
    singles: Samples,
}

pub async fn run(front: &Front, sync: Sync) -> Vec<Figure> {
    let raw = Raw::new(front).await;
    let messages = match sync {
        Sync::Always => RAW_ALWAYS,
        Sync::Default => RAW_DEFAULT,
    };
    let mut rates = Rates::default();
    // The first round is not counted: connections are made in it.
    for counted in std::iter::once(false).chain(std::iter::repeat_n(true, ROUNDS)) {
        let round = Rates::of(front, &raw, messages).await;
        if counted {
            rates.add(&round);
        }
    }
    rates.figures(sync, raw.bytes)
}

impl Rates {
    async fn of(front: &Front, raw: &Raw, messages: usize) -> [f64; 7] {
        let log = spotreel_bus::TaskLog::open(&front.services).await;
        [
            raw.publish(messages, false).await,
            raw.publish(messages, true).await,
            raw.batches(&log, TASKS).await,
            lists(front, 1_000, Named::ByIntake).await,
            lists(front, 10_000, Named::ByIntake).await,
            lists(front, 1_000, Named::ByClient).await,
            singles(front).await,
        ]
    }

    fn add(&mut self, round: &[f64; 7]) {
        let all = [
            &mut self.raw,
            &mut self.guarded,
            &mut self.batches,
            &mut self.thousands,
            &mut self.ten_thousands,
            &mut self.named,
            &mut self.singles,
        ];
        for (samples, rate) in all.into_iter().zip(round) {
            samples.add(*rate);
        }
    }

    fn figures(&self, sync: Sync, bytes: usize) -> Vec<Figure> {
        let (word, goal) = match sync {
            Sync::Always => ("always", GOAL_ALWAYS),
            Sync::Default => ("by default", GOAL_DEFAULT),
        };
        let raw = self.raw.p50();
        let setting = |what: &str| {
            format!(
                "{what}; each task validated and acknowledged after its write; against single publishes, {IN_FLIGHT} in flight, \
                 messages of {bytes} bytes and a subject each, into a stream of TASKS' settings on the same server, which syncs \
                 {word}; medians of {ROUNDS} rounds in turn; limits raised; with the log's own headers the same publishes are \
                 {:.0}/s, the log's atomic batches of {MAX_BATCH}, {LISTS_AT_ONCE} in flight, {:.0}/s",
                self.guarded.p50(),
                self.batches.p50()
            )
        };
        let figure = |what: &str, rate: &Samples, goal: Option<f64>, how: &str| {
            let name = format!("intake, sync {word}, {what}, tasks/s");
            Figure::rate(&name, rate.p50(), raw, goal, setting(how))
        };
        let at_once = format!("{LISTS_AT_ONCE} calls in flight");
        vec![
            figure(
                "lists of 1,000",
                &self.thousands,
                Some(goal),
                &format!("{at_once}, ids by intake"),
            ),
            figure(
                "lists of 10,000",
                &self.ten_thousands,
                Some(goal),
                &format!("{at_once}, ids by intake"),
            ),
            figure(
                "lists of 1,000, ids by the client",
                &self.named,
                Some(goal),
                &format!("{at_once}, each id held against the log"),
            ),
            figure(
                "single requests",
                &self.singles,
                Some(goal),
                &format!("{IN_FLIGHT} in flight, ids by intake"),
            ),
            figure(
                "bound by atomic batches",
                &self.batches,
                None,
                &format!(
                    "no goal, for comparison: {} tasks appended without intake, in atomic batches",
                    grouped(TASKS as u64)
                ),
            ),
        ]
    }
}

async fn lists(front: &Front, length: usize, named: Named) -> f64 {
    let calls: Vec<_> = (0..TASKS.div_ceil(length))
        .map(|_| Call::list(length, named))
        .collect();
    let began = Instant::now();
    all(front, &calls, LISTS_AT_ONCE).await;
    per_second(TASKS, began)
}

async fn singles(front: &Front) -> f64 {
    let calls: Vec<_> = (0..SINGLES).map(|_| Call::one(Named::ByIntake)).collect();
    let began = Instant::now();
    all(front, &calls, IN_FLIGHT).await;
    per_second(SINGLES, began)
}

async fn all(front: &Front, calls: &[Call], at_once: usize) {
    let sent = calls.iter().map(|call| front.submit(call));
    let mut sent = futures::stream::iter(sent).buffer_unordered(at_once);
    while let Some(()) = sent.next().await {}
}

pub fn per_second(tasks: usize, began: Instant) -> f64 {
    tasks as f64 / began.elapsed().as_secs_f64()
}

/// Writers that know nothing of tasks.
struct Raw {
    context: Context,
    payload: Bytes,
    bytes: usize,
}

impl Raw {
    async fn new(front: &Front) -> Self {
        let context = jetstream::new(front.services.clone());
        let config = Config {
            name: STREAM.into(),
            subjects: vec!["raw.>".into()],
            storage: StorageType::File,
            num_replicas: 1,
            allow_direct: true,
            allow_atomic_publish: true,
            discard: DiscardPolicy::New,
            max_bytes: 2 << 30,
            ..Config::default()
        };
        let made = context.create_stream(config).await;
        made.expect("the bench may make a stream of its own");
        let (_, task) = submitted(0);
        let payload = Bytes::from(codec::task::encode(&task));
        Self {
            context,
            bytes: payload.len(),
            payload,
        }
    }

    /// Single publishes, so many in flight that the server never waits for us. `guarded`: with the headers of the log.
    async fn publish(&self, messages: usize, guarded: bool) -> f64 {
        let run = ambient::uuid_v4().simple().to_string();
        let ready: Vec<_> = (0..messages)
            .map(|number| self.message(&run, number, guarded))
            .collect();
        let began = Instant::now();
        let mut waiting = VecDeque::with_capacity(IN_FLIGHT);
        for (subject, headers) in ready {
            if waiting.len() == IN_FLIGHT {
                acked(&mut waiting).await;
            }
            let payload = self.payload.clone();
            let sent = match headers {
                Some(headers) => {
                    let sent = self.context.publish_with_headers(subject, headers, payload);
                    sent.await
                }
                None => self.context.publish(subject, payload).await,
            };
            waiting.push_back(sent.expect("NATS is there"));
        }
        while !waiting.is_empty() {
            acked(&mut waiting).await;
        }
        per_second(messages, began)
    }

    fn message(&self, run: &str, number: usize, guarded: bool) -> (String, Option<HeaderMap>) {
        let subject = format!("raw.{run}-{number}.queued.t2v-A14B.1");
        let headers = guarded.then(|| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER_EXPECTED, "0");
            headers.insert(
                HEADER_EXPECTED_FILTER,
                format!("raw.{run}-{number}.>").as_str(),
            );
            headers.insert(HEADER_OP, ambient::uuid_v4().to_string().as_str());
            headers
        });
        (subject, headers)
    }

    /// The log's own writer without intake in front of it.
    async fn batches(&self, log: &spotreel_bus::TaskLog, tasks: usize) -> f64 {
        let ready: Vec<Vec<Append>> = (0..tasks.div_ceil(MAX_BATCH))
            .map(|_| {
                let appends = (0..MAX_BATCH)
                    .map(|number| Append::new(submitted(number), 0, ambient::uuid_v4()));
                appends.collect()
            })
            .collect();
        let began = Instant::now();
        let written = ready.iter().map(|appends| async move {
            let stored = log.append_batch(appends, ambient::uuid_v4()).await;
            stored.expect("NATS stores");
        });
        let mut written = futures::stream::iter(written).buffer_unordered(LISTS_AT_ONCE);
        while let Some(()) = written.next().await {}
        per_second(tasks, began)
    }
}

async fn acked(waiting: &mut VecDeque<jetstream::context::PublishAckFuture>) {
    let oldest = waiting.pop_front().expect("one waits");
    oldest.await.expect("NATS stores");
}

/// The first event of the same task that clients send.
fn submitted(number: usize) -> (spotreel_domain::Event, Task) {
    let request: TaskRequest =
        serde_json::from_str(&task(Named::ByIntake, number)).expect("it is a request");
    let now = ambient::now();
    let valid = request.validate(now).expect("it is valid");
    let id = TaskId::from(ambient::uuid_v7());
    Task::submit(id, valid.spec, valid.content_hash, now)
}
