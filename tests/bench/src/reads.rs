//! The verbs over a log of a million tasks against the same over one of ten.

use std::time::Instant;

use async_nats::{Client, Request};
use serde_json::{Value, json};
use spotreel_bootstrap::ambient;
use spotreel_bus::names::{GET, LIST, SUBMIT};
use spotreel_tests::harness::tasks;

use super::bounds::ms;
use super::figure::{Figure, grouped};
use super::filled::{Filled, id};
use super::front::Front;
use super::samples::Samples;
use super::tap::PATIENCE;

const GOAL: f64 = 1.5;
const ROUNDS: usize = 200;
const NOT_COUNTED: usize = 10;
/// As many as the short log holds: both pages are of one length.
const PAGE: u64 = 10;
/// Tasks that the server still has in memory.
const RECENT: u64 = 1_000;
/// A task drawn from all lies in a block of some megabytes that the server reads from its file first.
const VERBS: [&str; 4] = ["get, a recent task,", "get, any task,", "list", "submit"];

struct Asked {
    client: Client,
    tasks: u64,
    took: [Samples; VERBS.len()],
}

/// The fronts are left open for whoever measures on.
pub async fn run(short: Filled, long: Filled) -> (Vec<Figure>, Filled) {
    let (few, many, took) = (short.tasks, long.tasks, long.took);
    let (short, long) = (
        Front::over(short.server).await,
        Front::over(long.server).await,
    );
    let mut small = Asked::new(&short, few);
    let mut large = Asked::new(&long, many);
    for round in 0..NOT_COUNTED + ROUNDS {
        for asked in [&mut large, &mut small] {
            asked.round(round >= NOT_COUNTED).await;
        }
    }
    let figures = VERBS.into_iter().enumerate();
    let figures = figures.map(|(at, verb)| {
        let (ours, reference) = (large.took[at].p50(), small.took[at].p50());
        let name = format!("{verb} at {} / at {few}, p50, ms", grouped(many));
        let setting = format!(
            "the real intake over two nats-servers in turn with {many} and {few} tasks in TASKS, one request in flight, {ROUNDS} \
             rounds, sync always; get: a task drawn from the newest {RECENT}, and from all; list: the newest {PAGE}; submit: a new task with an id"
        );
        Figure::new(&name, ours, reference, Some(GOAL), setting)
    });
    let figures = figures.collect();
    let filled = Filled {
        server: long.close(),
        tasks: many,
        took,
    };
    (figures, filled)
}

impl Asked {
    fn new(front: &Front, tasks: u64) -> Self {
        Self {
            client: front.client.clone(),
            tasks,
            took: Default::default(),
        }
    }

    async fn round(&mut self, counted: bool) {
        let drawn = |from: u64| id(self.tasks - 1 - ambient::random_u64() % from);
        let (recent, any) = (drawn(self.tasks.min(RECENT)), drawn(self.tasks));
        let took = [
            ask(&self.client, GET, &json!({ "id": recent })).await,
            ask(&self.client, GET, &json!({ "id": any })).await,
            ask(&self.client, LIST, &json!({ "limit": PAGE })).await,
            ask(
                &self.client,
                SUBMIT,
                &tasks::small(&tasks::name("read"), 40),
            )
            .await,
        ];
        if counted {
            for (samples, took) in self.took.iter_mut().zip(took) {
                samples.add(took);
            }
        }
    }
}

async fn ask(client: &Client, verb: &'static str, body: &Value) -> f64 {
    let request = Request::new()
        .payload(body.to_string().into())
        .timeout(Some(PATIENCE));
    let began = Instant::now();
    let answer = client.send_request(verb, request).await;
    let took = ms(began);
    let answer = answer.expect("intake answers").payload;
    let answer: Value = serde_json::from_slice(&answer).expect("it answers in JSON");
    assert!(answer.get("error").is_none(), "{verb} {body}: {answer}");
    took
}
