//! Prometheus text from the `metrics` crate's macros, which every crate may call.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

/// Upper bounds of every histogram named `…_seconds`. From a quick message (10 ms) to the longest render (1 h): a
/// Spot instance is rarely kept longer than that for one task.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1200.0, 1800.0, 3600.0,
];

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
    metrics::gauge!(
        "spotreel_build_info",
        "program" => program.to_owned(),
        "version" => env!("CARGO_PKG_VERSION"),
    )
    .set(1.0);
    *installed = Some(handle.clone());
    Ok(handle)
}
