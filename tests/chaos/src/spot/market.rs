//! The market by hand: its admin listener, as the local cloud has it.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spotreel_domain::fleet::cloud::tag;

use crate::settings::ENV;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// An instance as the local cloud's operator sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct CloudInstance {
    pub id: String,
    pub state: String,
    pub instance_type: String,
    pub zone: String,
    pub fleet_id: String,
    pub pid: Option<i32>,
    pub launched_at: jiff::Timestamp,
    pub ended_at: Option<jiff::Timestamp>,
    pub notice_at: Option<jiff::Timestamp>,
    pub reason: Option<String>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CloudCall {
    pub action: String,
    pub arrived_us: i64,
    pub error: Option<String>,
    pub client_token: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CloudBill {
    pub lines: Vec<CloudBillLine>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CloudBillLine {
    pub instance_id: String,
    pub interrupted: bool,
    pub seconds: i64,
    pub micros: i64,
}

impl CloudInstance {
    /// By the market, and not by fleet.
    pub fn was_taken(&self) -> bool {
        let reason = self.reason.as_deref();
        reason.is_some_and(|reason| reason.starts_with("Server."))
    }

    pub fn is_ours(&self) -> bool {
        self.tags.get(tag::ENV).is_some_and(|env| env == ENV)
    }

    pub fn batch(&self) -> &str {
        self.tags.get(tag::BATCH).map_or("", String::as_str)
    }

    pub fn launch(&self) -> &str {
        self.tags.get(tag::LAUNCH).map_or("", String::as_str)
    }

    pub fn is_alive(&self) -> bool {
        self.state != "terminated"
    }

    /// Counts against the most that may run.
    pub fn runs(&self) -> bool {
        matches!(self.state.as_str(), "pending" | "running")
    }
}

/// The admin listener; the clones share its connections.
#[derive(Clone)]
pub struct Admin {
    url: String,
    http: reqwest::Client,
}

impl Admin {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            http: reqwest::Client::builder()
                .timeout(ANSWER_WITHIN)
                .build()
                .expect("a plain client"),
        }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    /// Whether it was taken.
    pub async fn post(&self, path: &str, body: &Value) -> bool {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(body.to_string());
        request
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    pub async fn machines(&self) -> anyhow::Result<Vec<CloudInstance>> {
        self.get("/instances").await
    }

    pub async fn calls(&self) -> anyhow::Result<Vec<CloudCall>> {
        self.get("/calls").await
    }

    pub async fn bill(&self) -> anyhow::Result<CloudBill> {
        self.get("/bill").await
    }
}

/// The worker in a machine: the one child of its script that is no `sleep`.
pub fn worker_of(machine: &CloudInstance) -> Option<Pid> {
    let pid = machine.pid?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let is_worker = |child: &i32| {
        std::fs::read_to_string(format!("/proc/{child}/comm"))
            .is_ok_and(|name| name.starts_with("spotreel-worker"))
    };
    let mut children = children.split_whitespace().filter_map(|id| id.parse().ok());
    children.find(is_worker).map(Pid::from_raw)
}

/// Whether the signal could be sent.
pub fn signal_worker(machine: &CloudInstance, signal: Signal) -> bool {
    worker_of(machine).is_some_and(|worker| kill(worker, signal).is_ok())
}

pub fn signal_machine(machine: &CloudInstance, signal: Signal) -> bool {
    machine
        .pid
        .is_some_and(|pid| killpg(Pid::from_raw(pid), signal).is_ok())
}
