//! The log, and spans over OTLP.
//!
//! What a level means, here and in every crate:
//!
//! | level | meaning |
//! |---|---|
//! | ERROR | a person must look: the program can't mend this by itself |
//! | WARN | something went wrong and was handled: a retry, a refused message, a lost Spot instance |
//! | INFO | the life of things: started, stopped, a batch opened, an instance launched |
//! | DEBUG | one step of one task |
//! | TRACE | the bytes and polls beneath a step |
//!
//! A thing is logged once, where it is handled, with the whole chain of causes; values are fields, not prose.

use std::io;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::sections::{LogFormat, TelemetryConfig};

/// One export may take this long, and so may the last flush: spans are worth less than a prompt exit.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Crates whose own spans never leave: the exporter uses them, and would describe itself for ever.
const NOT_EXPORTED: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "reqwest",
    "tonic",
];

/// Why telemetry can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry.log = {filter:?} is not a filter: write a level, or target=level pairs")]
    Filter { filter: String, source: ParseError },
    #[error(
        "telemetry.otlp_endpoint = {endpoint:?}: only http:// is spoken; run a collector nearby \
         that forwards over TLS"
    )]
    Scheme { endpoint: String },
    #[error("telemetry.otlp_endpoint = {endpoint:?} is not a usable endpoint")]
    Exporter {
        endpoint: String,
        source: ExporterBuildError,
    },
    #[error("another subscriber is installed already")]
    Installed(#[from] TryInitError),
}

/// What must be flushed at the end.
#[must_use = "call shutdown() at the end, or the last spans are lost"]
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends what is still held. Blocks, so call it outside of the runtime's threads and before the runtime ends.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "last spans were not exported");
        }
    }
}

/// Sets up the log on stderr and, when an endpoint is configured, the export of spans. Must be called inside a tokio
/// runtime, on which the export runs.
///
/// # Errors
/// When the filter or the endpoint can't be used, or a subscriber is installed already.
pub fn init(program: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = match config.otlp_endpoint.as_deref() {
        Some(endpoint) if !endpoint.is_empty() => Some(provider(program, endpoint)?),
        _ => None,
    };
    let export = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(format!("spotreel-{program}")))
            .with_filter(FilterFn::new(|metadata| exported(metadata.target())))
    });
    tracing_subscriber::registry()
        .with(filter(&config.log)?)
        .with(lines(config.format))
        .with(export)
        .try_init()?;
    Ok(Telemetry { provider })
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|source| TelemetryError::Filter {
            filter: text.to_owned(),
            source,
        })
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => layer
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn provider(program: &str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    if !endpoint.starts_with("http://") {
        return Err(TelemetryError::Scheme {
            endpoint: endpoint.to_owned(),
        });
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| TelemetryError::Exporter {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    let resource = Resource::builder()
        .with_service_name(format!("spotreel-{program}"))
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", crate::ambient::uuid_v4().to_string()),
        ])
        .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(BatchSpanProcessor::builder(exporter, Tokio).build())
        .build())
}

/// The endpoint is a base address, as in `OTEL_EXPORTER_OTLP_ENDPOINT`; one that already names the path is kept.
fn traces_url(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    if base.ends_with("/v1/traces") {
        base.to_owned()
    } else {
        format!("{base}/v1/traces")
    }
}

fn exported(target: &str) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    !NOT_EXPORTED.contains(&krate) && !krate.starts_with("opentelemetry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_a_base_address() {
        assert_eq!(traces_url("http://c:4318"), "http://c:4318/v1/traces");
        assert_eq!(traces_url("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(
            traces_url("http://c:4318/v1/traces"),
            "http://c:4318/v1/traces"
        );
    }

    #[test]
    fn the_exporter_does_not_describe_itself() {
        assert!(exported("spotreel_fleet::act"));
        assert!(!exported("hyper_util::client::legacy"));
        assert!(!exported("opentelemetry_sdk"));
    }

    #[test]
    fn a_bad_filter_names_its_key() {
        let error = filter("spotreel=loud").unwrap_err().to_string();
        assert!(error.contains("telemetry.log"), "{error}");
    }
}
