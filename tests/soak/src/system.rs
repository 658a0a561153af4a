//! The system under test: every program, with a janitor in a hurry.

use std::time::Duration;

use async_nats::Client;
use spotreel_tests::harness::{Program, System, SystemOptions, process};

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
        let (trigger, fleet) = tokio::join!(
            Program::start(system.spec("trigger")),
            Program::start(system.spec("fleet"))
        );
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
            let engines = process::children(id);
            found.extend(
                engines
                    .into_iter()
                    .map(|child| (format!("engine-{number}"), child)),
            );
        }
        let port = self.system.nats.port.to_string();
        let cloud = self
            .system
            .cloud
            .access
            .endpoint
            .trim_start_matches("http://");
        found.extend(process::of("nats-server", &port).map(|id| ("nats-server".into(), id)));
        found.extend(process::of("spotreel-localcloud", cloud).map(|id| ("localcloud".into(), id)));
        found
    }
}
