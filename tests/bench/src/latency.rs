//! What one submission costs when nothing else is asked: beside one raw append and one echo through a service, on the
//! same server, over the same border between the accounts.

use std::time::Instant;

use async_nats::service::ServiceExt;
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use futures::StreamExt;
use spotreel_bus::connect::REQUEST_TIMEOUT;
use spotreel_bus::jetstream::{self, PubAck};
use spotreel_bus::names::WHY;
use tokio::task::JoinHandle;

use super::bounds::ms;
use super::figure::Figure;
use super::front::{Call, Front, Named};
use super::samples::Samples;
use super::tap::PATIENCE;

const GOAL: f64 = 1.3;
const ROUNDS: usize = 400;
const NOT_COUNTED: usize = 20;
/// Half a kilobyte, as a task in the log.
const APPENDED: usize = 512;
/// A stream of the bench's own, made by the part about rates.
const RAW_SUBJECT: &str = "raw.latency";

pub async fn run(front: &Front) -> Vec<Figure> {
    // Trigger does not run here: its verb is one that crosses the border as intake's do.
    let echo = Echo::offer(&front.server.client("trigger").await).await;
    let call = Call::one(Named::ByIntake);
    let (mut submits, mut appends, mut echoes) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..NOT_COUNTED + ROUNDS {
        let began = Instant::now();
        front.submit(&call).await;
        let submit = ms(began);
        let append = append(&front.services).await;
        let asked = Instant::now();
        ask(&front.client, call.body.clone()).await;
        let echoed = ms(asked);
        if round >= NOT_COUNTED {
            submits.add(submit);
            appends.add(append);
            echoes.add(echoed);
        }
    }
    drop(echo);
    let setting = |beside: &str| {
        format!(
            "one request in flight, nothing else at work, sync always, {ROUNDS} rounds in turn; {beside}bound: one raw append of \
             {APPENDED} bytes of {:.3} ms and one echo by a NATS service across the border of the accounts of {:.3} ms",
            appends.p50(),
            echoes.p50()
        )
    };
    let figure = |percentile: f64, goal: Option<f64>, beside: &str| {
        Figure::new(
            &format!("submit, idle, p{percentile:.0}, ms"),
            submits.percentile(percentile),
            appends.percentile(percentile) + echoes.percentile(percentile),
            goal,
            setting(beside),
        )
    };
    vec![
        figure(50.0, Some(GOAL), ""),
        figure(99.0, None, "no goal, for comparison; "),
    ]
}

async fn append(client: &Client) -> f64 {
    let payload = Bytes::from(vec![7; APPENDED]);
    let began = Instant::now();
    let stored = jetstream::request::<PubAck>(
        client,
        RAW_SUBJECT,
        HeaderMap::new(),
        payload,
        REQUEST_TIMEOUT,
    );
    stored.await.expect("NATS stores");
    ms(began)
}

async fn ask(client: &Client, body: Bytes) {
    let request = Request::new().payload(body).timeout(Some(PATIENCE));
    let answer = client.send_request(WHY, request).await;
    answer.expect("the echo answers");
}

/// Says what it is told, until it is dropped.
struct Echo(JoinHandle<()>);

impl Echo {
    async fn offer(client: &Client) -> Self {
        let service = client
            .service_builder()
            .start("spotreel-echo", "0.0.1")
            .await;
        let service = service.expect("the bench may offer a service");
        let mut endpoint = service.endpoint(WHY).await.expect("and an endpoint");
        client.flush().await.expect("NATS answers");
        Self(tokio::spawn(async move {
            let _service = service;
            while let Some(request) = endpoint.next().await {
                let body = request.message.payload.clone();
                request.respond(Ok(body)).await.expect("NATS is there");
            }
        }))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}
