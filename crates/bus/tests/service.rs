//! What every request to a program goes through, on a real server and over the border between the accounts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request};
use futures::StreamExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spotreel_api::ApiError;
use spotreel_bus::service::Offered;
use spotreel_bus::{Room, Service, names};
use spotreel_test_kit::Nats;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Number {
    number: u64,
}

async fn double(_: Arc<()>, asked: Number) -> Result<Number, ApiError> {
    let number = asked.number * 2;
    Ok(Number { number })
}

async fn panics(_: Arc<()>, _: Number) -> Result<Number, ApiError> {
    panic!("as a handler with a fault does")
}

/// The trace that the handler works in.
async fn trace_id(_: Arc<()>, _: Number) -> Result<String, ApiError> {
    let context = tracing::Span::current().context();
    Ok(context.span().span_context().trace_id().to_string())
}

fn verbs() -> Service<()> {
    Service::new("trigger", "of a test", &Arc::new(()), Room::new(8, 16))
        .verb("why", names::WHY, double)
        .verb("quote", names::QUOTE, panics)
        .verb("batches", names::LIST_BATCHES, trace_id)
}

struct Running {
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    fn new(offered: Offered) -> Self {
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let answering = {
            let (stopping, tasks) = (stopping.clone(), tasks.clone());
            async move { offered.answer(&stopping, &tasks).await.unwrap() }
        };
        tasks.spawn(answering);
        Self { stopping, tasks }
    }

    async fn stop(self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn ask(client: &Client, subject: &'static str, payload: &str) -> Value {
    let request = Request::new()
        .payload(payload.to_owned().into())
        .timeout(Some(Duration::from_secs(10)));
    let answer = client.send_request(subject, request).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Whatever this connection was sent before now has arrived.
async fn settled(client: &Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    own.next().await.unwrap();
}

#[tokio::test]
async fn every_request_gets_an_answer_whatever_it_asks() {
    let nats = Nats::start().await;
    let (client, program) = (nats.client("client").await, nats.client("provision").await);
    let running = Running::new(verbs().offer(&program).await.unwrap());
    settled(&program).await;

    assert_eq!(
        ask(&client, names::WHY, "{\"number\":4}").await["number"],
        8
    );
    for nothing in ["", " \n", "{}"] {
        assert_eq!(ask(&client, names::WHY, nothing).await["number"], 0);
    }
    let misspelt = ask(&client, names::WHY, "{\"numer\":4}").await;
    assert_eq!(misspelt["error"]["code"], "invalid");
    let message = misspelt["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the request: ") && message.contains("numer"));
    let panicked = ask(&client, names::QUOTE, "{}").await;
    assert_eq!(panicked["error"]["code"], "internal");
    running.stop().await;
}

#[tokio::test]
async fn what_has_arrived_at_a_stop_is_answered() {
    let nats = Nats::start().await;
    // Within one account, so that the client too may write to its own inbox and see that its requests have arrived.
    let (client, program) = (
        nats.client("provision").await,
        nats.client("provision").await,
    );
    let offered = verbs().offer(&program).await.unwrap();
    settled(&program).await;

    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await.unwrap();
    for number in 1..=3 {
        let asked = json!({ "number": number }).to_string();
        client
            .publish_with_reply(names::WHY, inbox.clone(), asked.into())
            .await
            .unwrap();
    }
    settled(&client).await;
    settled(&program).await;

    let running = Running::new(offered);
    running.stop().await;
    let answers: Vec<Message> = answers.take(3).collect().await;
    let number = |answer: &Message| {
        let answer: Number = serde_json::from_slice(&answer.payload).unwrap();
        answer.number
    };
    let mut numbers: Vec<_> = answers.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 4, 6]);
}

#[tokio::test]
async fn a_request_is_handled_in_the_callers_trace_and_measured() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().build();
    let traced = tracing_opentelemetry::layer().with_tracer(provider.tracer("of a test"));
    let _subscriber = tracing_subscriber::registry().with(traced).set_default();
    let recorder = PrometheusBuilder::new().build_recorder();
    let measured = recorder.handle();

    let nats = Nats::start().await;
    let (client, program) = (nats.client("client").await, nats.client("provision").await);
    let verbs = metrics::with_local_recorder(&recorder, verbs);
    let running = Running::new(verbs.offer(&program).await.unwrap());
    settled(&program).await;

    let mut headers = HeaderMap::new();
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    headers.insert("traceparent", parent.as_str());
    let request = Request::new().headers(headers).payload("".into());
    let answer = client.send_request(names::LIST_BATCHES, request).await;
    let seen: String = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert_eq!(seen, TRACE);
    running.stop().await;
    let measured = measured.render();
    let count = "spotreel_trigger_request_seconds_count{verb=\"batches\"} 1";
    assert!(measured.contains(count), "{measured}");
}
