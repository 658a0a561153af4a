//! The system under test: every program, with a janitor in a hurry.

use std::time::Duration;

use async_nats::Client;

use crate::harness::nats::password;
use crate::harness::program::Spec;
use crate::harness::{Program, System, SystemOptions};

const LEASE: Duration = Duration::from_secs(10);
/// Finished tasks are tidied, and forgotten, after so long.
pub const GRACE: Duration = Duration::from_secs(5);
pub const KEPT: Duration = Duration::from_secs(45);
pub const REMOVED_EVERY: Duration = Duration::from_secs(5);

pub struct Soaked {
    pub system: System,
    pub others: [Program; 2],
    /// In the clients' account.
    pub client: Client,
    /// In the services' account, with all rights.
    pub observer: Client,
}

impl Soaked {
    pub async fn start(workers: usize) -> Self {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let environment = [
            ("SPOTREEL_MONITOR_JANITOR__GRACE", seconds(GRACE)),
            ("SPOTREEL_MONITOR_JANITOR__KEEP_FINISHED", seconds(KEPT)),
            (
                "SPOTREEL_MONITOR_JANITOR__REMOVE_EVERY",
                seconds(REMOVED_EVERY),
            ),
        ];
        let system = System::start(SystemOptions {
            lease: LEASE,
            workers,
            environment: environment
                .map(|(key, value)| (key.to_owned(), value))
                .to_vec(),
            ..SystemOptions::default()
        })
        .await;
        let others = ["trigger", "fleet"].map(|name| {
            Spec::new(name, system.dir())
                .env("SPOTREEL_NATS__URL", &system.nats.url)
                .env("SPOTREEL_NATS__USER", name)
                .env("SPOTREEL_NATS__PASSWORD", &password(name))
        });
        let [trigger, fleet] = others;
        let (trigger, fleet) = tokio::join!(Program::start(trigger), Program::start(fleet));
        Self {
            client: system.nats.client("client").await,
            observer: system.nats.client("provision").await,
            others: [trigger, fleet],
            system,
        }
    }

    /// Every process of it, children included: what it is called, and its number.
    pub fn processes(&mut self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        let services = [
            &mut self.system.intake,
            &mut self.system.notifier,
            &mut self.system.monitor,
        ];
        let named = |program: &mut Program| {
            let name = program.spec.name.trim_start_matches("spotreel-").to_owned();
            (name, program.id())
        };
        found.extend(services.into_iter().chain(&mut self.others).map(named));
        for (number, worker) in self.system.workers.iter_mut().enumerate() {
            let id = worker.id();
            found.push((format!("worker-{number}"), id));
            let engines = super::process::children(id);
            found.extend(
                engines
                    .into_iter()
                    .map(|child| (format!("engine-{number}"), child)),
            );
        }
        let port = self.system.nats.port.to_string();
        let cloud = self.system.cloud.endpoint.trim_start_matches("http://");
        found.extend(super::process::of("nats-server", &port).map(|id| ("nats-server".into(), id)));
        found.extend(
            super::process::of("spotreel-localcloud", cloud).map(|id| ("localcloud".into(), id)),
        );
        found
    }
}
