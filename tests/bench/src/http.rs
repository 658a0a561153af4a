//! The HTTP API against the NATS door of the same intake: what the other protocol costs.

use std::time::Instant;

use futures::StreamExt;
use reqwest::Client;

use super::bounds::ms;
use super::figure::Figure;
use super::front::{Call, Front, Named};
use super::samples::Samples;

const LATENCY_GOAL: f64 = 2.0;
const RATE_GOAL: f64 = 0.5;
const ROUNDS: usize = 400;
const NOT_COUNTED: usize = 20;
/// As many as intake works on at the same time by default; beyond it HTTP clients hear 503.
const IN_FLIGHT: usize = 256;
const TASKS: usize = 10_000;
/// Of either door, in turn.
const RATE_ROUNDS: usize = 5;

pub async fn run(front: &Front) -> Vec<Figure> {
    let door = Door::of(front);
    let call = Call::one(Named::ByIntake);
    let (mut http, mut nats) = (Samples::default(), Samples::default());
    for round in 0..NOT_COUNTED + ROUNDS {
        let began = Instant::now();
        door.submit(&call).await;
        let by_http = ms(began);
        let began = Instant::now();
        front.submit(&call).await;
        let by_nats = ms(began);
        if round >= NOT_COUNTED {
            http.add(by_http);
            nats.add(by_nats);
        }
    }
    let mut figures = vec![Figure::new(
        "submit by HTTP / by NATS, idle, p50, ms",
        http.p50(),
        nats.p50(),
        Some(LATENCY_GOAL),
        format!(
            "`POST /v1/tasks` over one kept connection, without a key, against `spotreel.submit` at the same intake, one \
             request in flight, {ROUNDS} rounds in turn, sync always"
        ),
    )];
    let (mut http, mut nats) = (Samples::default(), Samples::default());
    // The first round is not counted: connections are made in it.
    for counted in std::iter::once(false).chain(std::iter::repeat_n(true, RATE_ROUNDS)) {
        let by_http = rate(|| door.submit(&call)).await;
        let by_nats = rate(|| front.submit(&call)).await;
        if counted {
            http.add(by_http);
            nats.add(by_nats);
        }
    }
    figures.push(Figure::rate(
        "submit by HTTP / by NATS, tasks/s",
        http.p50(),
        nats.p50(),
        Some(RATE_GOAL),
        format!(
            "single tasks, {IN_FLIGHT} requests in flight, {TASKS} a round, medians of {RATE_ROUNDS} rounds in turn, sync always"
        ),
    ));
    figures
}

struct Door {
    client: Client,
    url: String,
}

impl Door {
    fn of(front: &Front) -> Self {
        Self {
            client: Client::new(),
            url: format!("{}/v1/tasks", front.intake.spec.api_url()),
        }
    }

    async fn submit(&self, call: &Call) {
        let sent = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .body(call.body.clone())
            .send();
        let answer = sent.await.expect("intake answers");
        let status = answer.status();
        let body = answer.bytes().await.expect("and says all of it");
        assert!(
            call.is_answered_by(&body),
            "intake answers {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
}

/// Tasks a second.
async fn rate<F: Future<Output = ()>>(mut submit: impl FnMut() -> F) -> f64 {
    let began = Instant::now();
    let sent = (0..TASKS).map(|_| submit());
    let mut sent = futures::stream::iter(sent).buffer_unordered(IN_FLIGHT);
    while let Some(()) = sent.next().await {}
    super::intake::per_second(TASKS, began)
}
