//! W3C trace context in message headers: one trace from a submission to its last ack, across programs and hours.

use async_nats::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector};
use tracing_opentelemetry::OpenTelemetrySpanExt;

struct Carrier<'a>(&'a HeaderMap);
struct CarrierMut<'a>(&'a mut HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(async_nats::HeaderValue::as_str)
    }
    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Injector for CarrierMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value.as_str());
    }
}

/// Writes the current span's context into the headers.
pub fn inject(headers: &mut HeaderMap) {
    let context = tracing::Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut CarrierMut(headers));
    });
}

/// The context that a message came with.
pub fn extract(headers: &HeaderMap) -> Context {
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&Carrier(headers))
    })
}

/// Makes `span` a child of the span that sent the message.
pub fn adopt(span: &tracing::Span, headers: &HeaderMap) {
    // Fails only for a span that no layer records, which has no parent to be given.
    let _ = span.set_parent(extract(headers));
}
