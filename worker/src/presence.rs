//! What the worker says of itself while it lives, and what its accelerators say.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::ambient;
use spotreel_bus::kv;
use spotreel_proto::worker::v1::{Gpu, Presence};
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;

/// Three times within the time after which a silent worker is no longer counted.
const EVERY: Duration = Duration::from_secs(kv::PRESENCE_TTL.as_secs() / 3);

#[derive(Clone)]
pub struct Board(Arc<Mutex<Presence>>);

impl Board {
    pub fn new(name: &str, config: &WorkerConfig) -> Self {
        Self(Arc::new(Mutex::new(Presence {
            worker: name.to_owned(),
            instance: config.effective_instance(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            models: config
                .models
                .iter()
                .map(|model| model.as_str().to_owned())
                .collect(),
            ..Presence::default()
        })))
    }

    pub fn update(&self, change: impl FnOnce(&mut Presence)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says it again and again until the worker stops, then takes it back.
    pub async fn announce(self, client: Client, stopping: CancellationToken) {
        let nvml = nvml_wrapper::Nvml::init().ok();
        if nvml.is_none() {
            tracing::debug!("no NVML here: GPU facts are left out");
        }
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopping.cancelled() => break,
            }
            let gpus = nvml.as_ref().map(gpus).unwrap_or_default();
            self.update(|presence| {
                presence.gpus = gpus;
                presence.at_ms = ambient::now().as_millisecond();
            });
            self.put(&client).await;
        }
        let name = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .worker
            .clone();
        if let Err(error) = kv::remove_presence(&client, &name).await {
            tracing::debug!(%error, "the presence was not taken back; it ends by itself");
        }
    }

    async fn put(&self, client: &Client) {
        let presence = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Err(error) = kv::put_presence(client, &presence).await {
            tracing::debug!(%error, "the presence was not written");
        }
    }
}

fn gpus(nvml: &nvml_wrapper::Nvml) -> Vec<Gpu> {
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let count = nvml.device_count().unwrap_or_default();
    (0..count)
        .filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let memory = device.memory_info().ok()?;
            Some(Gpu {
                name: device.name().unwrap_or_default(),
                memory_bytes: memory.total,
                memory_used_bytes: memory.used,
                utilization_percent: device
                    .utilization_rates()
                    .map(|rates| rates.gpu)
                    .unwrap_or_default(),
                temperature_celsius: device
                    .temperature(nvml_wrapper::enum_wrappers::device::TemperatureSensor::Gpu)
                    .unwrap_or_default(),
                driver: driver.clone(),
            })
        })
        .collect()
}
