//! Everything that goes wrong outside the engine, and its repair: one hand on the whole system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Op, Program as Name, Timed};
use super::record::Record;
use crate::harness::{Program, System};

const TICK: Duration = Duration::from_millis(30);
/// A frozen admin listener must not hold up the schedule.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
const CRASH_AT: &str = "SPOTREEL_CRASH_AT";

pub struct Saboteur {
    pub system: System,
    record: Arc<Record>,
    begun: Instant,
    /// Killed, and when to start it again.
    down: BTreeMap<Name, Duration>,
    frozen: BTreeMap<usize, Duration>,
    armed: BTreeSet<usize>,
    storage_until: Option<Duration>,
    http: reqwest::Client,
}

impl Saboteur {
    pub fn new(system: System, record: Arc<Record>) -> Self {
        Self {
            system,
            record,
            begun: Instant::now(),
            down: BTreeMap::new(),
            frozen: BTreeMap::new(),
            armed: BTreeSet::new(),
            storage_until: None,
            http: reqwest::Client::builder()
                .timeout(ADMIN_TIMEOUT)
                .build()
                .expect("a plain client"),
        }
    }

    /// Does what is planned, then leaves everything up and without faults.
    pub async fn run(mut self, accidents: Vec<Timed>, length: Duration) -> Self {
        let mut accidents = accidents.into_iter().peekable();
        while self.begun.elapsed() < length {
            let now = self.begun.elapsed();
            while let Some(Timed { op, .. }) = accidents.next_if(|timed| timed.at <= now) {
                self.act(&op, now).await;
            }
            self.repair(now).await;
            tokio::time::sleep(TICK).await;
        }
        self.repair(Duration::MAX).await;
        self
    }

    /// Keeps everything running, as whoever supervises it in production does.
    pub async fn nurse(&mut self, during: Duration) {
        let until = Instant::now() + during;
        while Instant::now() < until {
            self.repair(Duration::MAX).await;
            tokio::time::sleep(TICK).await;
        }
    }

    async fn act(&mut self, op: &Op, now: Duration) {
        match op {
            Op::Kill { program, down } => {
                self.record.count(format!("kill -9 {}", kind(*program)));
                self.kill(*program);
                self.down.insert(*program, now + *down);
            }
            Op::Arm { worker, crash_at } => {
                let point = crash_at.split(':').next().unwrap_or_default();
                self.record.count(format!("worker armed to die {point}"));
                let program = &mut self.system.workers[*worker];
                program.kill9();
                program
                    .spec
                    .environment
                    .push((CRASH_AT.into(), crash_at.clone()));
                program.begin();
                self.armed.insert(*worker);
            }
            Op::Freeze { worker, asleep } => {
                self.record.count("worker frozen past its lease");
                self.system.workers[*worker].freeze();
                self.frozen.insert(*worker, now + *asleep);
            }
            Op::Stop { worker } => {
                self.record.count("worker told to stop");
                self.system.workers[*worker].terminate();
            }
            Op::Storage { rules, seed, last } => {
                self.record.count("S3 faults ordered");
                self.order(&format!(r#"{{"seed":{seed},"rules":{rules}}}"#))
                    .await;
                self.storage_until = Some(now + *last);
            }
            Op::Submit { .. } | Op::Nonsense { .. } | Op::Cancel { .. } | Op::Retry { .. } => {}
        }
    }

    fn kill(&mut self, name: Name) {
        match name {
            Name::Nats => self.system.nats.kill9(),
            Name::Localcloud => self.system.cloud.kill9(),
            other => self.program(other).kill9(),
        }
    }

    /// Starts what is due, and what has died by itself.
    async fn repair(&mut self, now: Duration) {
        let due: Vec<Name> = self
            .down
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| *name)
            .collect();
        for name in due {
            self.down.remove(&name);
            match name {
                Name::Nats => self.system.nats.begin().await,
                Name::Localcloud => self.system.cloud.begin().await,
                other => self.program(other).begin(),
            }
        }
        let awake: Vec<usize> = self
            .frozen
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(worker, _)| *worker)
            .collect();
        for worker in awake {
            self.frozen.remove(&worker);
            self.system.workers[worker].thaw();
        }
        if self.storage_until.is_some_and(|at| at <= now)
            && !self.down.contains_key(&Name::Localcloud)
        {
            self.count_storage().await;
            self.order(r#"{"rules":[]}"#).await;
            self.storage_until = None;
        }
        self.revive();
    }

    fn revive(&mut self) {
        let services = [Name::Intake, Name::Notifier, Name::Monitor];
        let workers = (0..self.system.workers.len()).map(Name::Worker);
        for name in services.into_iter().chain(workers).collect::<Vec<_>>() {
            if self.down.contains_key(&name) || !self.program(name).has_ended() {
                continue;
            }
            let armed = matches!(name, Name::Worker(worker) if self.armed.remove(&worker));
            self.record.count(match armed {
                true => "worker restarted after a named crash or exit".to_owned(),
                false => format!("{} ended by itself and restarted", kind(name)),
            });
            let program = self.program(name);
            program.spec.environment.retain(|(key, _)| key != CRASH_AT);
            program.begin();
        }
    }

    /// Nobody dies on order any more.
    pub fn disarm(&mut self) {
        for worker in std::mem::take(&mut self.armed) {
            let program = &mut self.system.workers[worker];
            program.spec.environment.retain(|(key, _)| key != CRASH_AT);
            program.kill9();
            program.begin();
        }
    }

    fn program(&mut self, name: Name) -> &mut Program {
        match name {
            Name::Worker(worker) => &mut self.system.workers[worker],
            Name::Intake => &mut self.system.intake,
            Name::Notifier => &mut self.system.notifier,
            Name::Monitor => &mut self.system.monitor,
            Name::Localcloud | Name::Nats => unreachable!("these are no programs of the harness"),
        }
    }

    /// A cloud that is down has no faults: it forgets them with its process.
    async fn order(&self, rules: &str) {
        let request = self
            .http
            .post(format!("{}/faults", self.system.cloud.admin));
        let sent = request
            .header("content-type", "application/json")
            .body(rules.to_owned())
            .send()
            .await;
        if let Ok(answer) = sent {
            assert!(
                answer.status().is_success(),
                "the local cloud refuses the faults {rules}"
            );
        }
    }

    async fn count_storage(&self) {
        let Ok(answer) = self
            .http
            .get(format!("{}/faults", self.system.cloud.admin))
            .send()
            .await
        else {
            return;
        };
        let rules: serde_json::Value = match answer.bytes().await {
            Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
            Err(_) => return,
        };
        for rule in rules.as_array().into_iter().flatten() {
            for _ in 0..rule["fired"].as_u64().unwrap_or_default() {
                let late = if rule["after"] == true {
                    " after the work"
                } else {
                    ""
                };
                self.record.count(format!(
                    "S3 fault {}{late}",
                    rule["action"].as_str().unwrap_or("?")
                ));
            }
        }
    }
}

fn kind(name: Name) -> &'static str {
    match name {
        Name::Worker(_) => "worker",
        Name::Intake => "intake",
        Name::Notifier => "notifier",
        Name::Monitor => "monitor",
        Name::Localcloud => "localcloud",
        Name::Nats => "nats-server",
    }
}
