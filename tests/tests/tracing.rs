//! One trace from a submission to whoever hears of its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use futures::StreamExt;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use parking_lot::Mutex;
use prost::Message;
use spotreel_api::Accepted;
use spotreel_bootstrap::ambient;
use spotreel_tests::harness::tasks::{name, small};
use spotreel_tests::harness::{System, SystemOptions, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Trace id → the programs and spans seen in it.
type Seen = Arc<Mutex<BTreeMap<String, Vec<(String, String)>>>>;

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_reaches_from_the_submission_to_the_event() {
    let (collector, seen) = collector().await;
    let environment = vec![("SPOTREEL_TELEMETRY__OTLP_ENDPOINT".into(), collector)];
    let system = System::start(SystemOptions {
        environment,
        ..SystemOptions::default()
    })
    .await;
    let api = system.api().await;
    let trace = ambient::uuid_v4().simple().to_string();
    let mut headers = HeaderMap::new();
    headers.insert(
        "traceparent",
        format!("00-{trace}-00f067aa0ba902b7-01").as_str(),
    );
    let id = name("traced");
    let mut events = api
        .client
        .subscribe(format!("spotreel.task.{id}.succeeded"))
        .await
        .expect("clients may listen");
    let accepted: Result<Accepted, _> = api.ask_with("submit", headers, &small(&id, 2)).await;
    accepted.expect("it is taken");
    let event = tokio::time::timeout(SOON, events.next())
        .await
        .expect("it is told")
        .expect("an event");
    let headers = event.headers.expect("an event has headers");
    let parent = headers
        .get("traceparent")
        .map(|value| value.as_str().to_owned())
        .unwrap_or_default();
    assert!(
        parent.contains(&trace),
        "the event belongs to {parent}, not to {trace}"
    );
    eventually(
        "intake, worker and notifier have sent their spans",
        SOON,
        || {
            let spans = seen.lock().get(&trace).cloned();
            async move {
                let spans = spans?;
                let from =
                    |program: &str| spans.iter().any(|(service, _)| service.contains(program));
                ["intake", "worker", "notifier"]
                    .into_iter()
                    .all(from)
                    .then_some(())
            }
        },
    )
    .await;
}

/// An OTLP collector that remembers which program took part in which trace.
async fn collector() -> (String, Seen) {
    let seen = Seen::default();
    let router = axum::Router::new()
        .route("/v1/traces", post(receive))
        .with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("a listener has an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), seen)
}

async fn receive(State(seen): State<Seen>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("an export is protobuf");
    let mut seen = seen.lock();
    for resource in request.resource_spans {
        let attributes = resource
            .resource
            .map(|resource| resource.attributes)
            .unwrap_or_default();
        let service = attributes
            .into_iter()
            .find(|pair| pair.key == "service.name");
        let service = match service
            .and_then(|pair| pair.value)
            .and_then(|value| value.value)
        {
            Some(Value::StringValue(name)) => name,
            _ => String::new(),
        };
        for span in resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            let spans = seen.entry(hex::encode(&span.trace_id)).or_default();
            spans.push((service.clone(), span.name));
        }
    }
}
