//! Prometheus text from the `metrics` crate's macros, which every crate may call.

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

/// Upper bounds of every histogram named `…_seconds`. From a quick message (10 ms) to the longest render (1 h): a
/// Spot instance is rarely kept longer than that for one task.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1200.0, 1800.0, 3600.0,
];

/// Declares the names of metrics as constants, and the function `describe`, which gives each its unit and the text that
/// `/metrics` shows. A name that other files write as a literal has the constant `_`.
#[macro_export]
macro_rules! metrics {
    ($($kind:ident $constant:tt = $name:literal, $unit:ident, $text:literal;)*) => {
        $(const $constant: &str = $name;)*

        pub fn describe() {
            use $crate::metrics::{MetricKind, MetricUnit, describe_one};
            $(describe_one(MetricKind::$kind, $name, MetricUnit::$unit, $text);)*
        }
    };
}

#[derive(Clone, Copy, Debug)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Copy, Debug)]
pub enum MetricUnit {
    Count,
    Seconds,
    Bytes,
    /// US dollars; the `metrics` crate has no unit for them.
    Dollars,
}

#[doc(hidden)]
pub fn describe_one(kind: MetricKind, name: &'static str, unit: MetricUnit, text: &'static str) {
    let unit = match unit {
        MetricUnit::Count | MetricUnit::Dollars => Unit::Count,
        MetricUnit::Seconds => Unit::Seconds,
        MetricUnit::Bytes => Unit::Bytes,
    };
    match kind {
        MetricKind::Counter => metrics::describe_counter!(name, unit, text),
        MetricKind::Gauge => metrics::describe_gauge!(name, unit, text),
        MetricKind::Histogram => metrics::describe_histogram!(name, unit, text),
    }
}

crate::metrics! {
    Gauge BUILD_INFO = "spotreel_build_info", Count, "Always 1; the labels name the program and its version";
}

/// The installed recorder. One a process: the macros write to a global.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Why metrics can't be collected.
#[derive(Debug, thiserror::Error)]
#[error("can't install the metrics recorder: {0}")]
pub struct MetricsError(String);

/// Installs the recorder for this process; a second call gives the first one's handle.
///
/// # Errors
/// When another recorder is installed already.
pub fn install(program: &str) -> Result<PrometheusHandle, MetricsError> {
    let mut installed = INSTALLED.lock();
    if let Some(handle) = installed.as_ref() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
        .map_err(|error| MetricsError(error.to_string()))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| MetricsError(error.to_string()))?;
    describe();
    metrics::gauge!(
        BUILD_INFO,
        "program" => program.to_owned(),
        "version" => env!("CARGO_PKG_VERSION"),
    )
    .set(1.0);
    *installed = Some(handle.clone());
    Ok(handle)
}
