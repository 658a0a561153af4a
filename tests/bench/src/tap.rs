//! A tap on the wire: what is written where and when, heard as the services hear it.
//!
//! Core NATS passes a message on before it is stored, so these times are those at which a write was asked for.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use futures::StreamExt;
use futures::stream::select_all;
use parking_lot::Mutex;
use prost::Message as _;
use spotreel_bootstrap::ambient;
use spotreel_bus::names::{
    BATCHLOG_ALL, LOG_ALL, WORKERS_BUCKET, parse_batchlog_subject, parse_log_subject,
};
use spotreel_proto::worker::v1::Presence;
use tokio::task::JoinHandle;

/// Fleet rests 200 ms between two looks, and looks again 300 ms after one that it was woken for in vain: once nothing was
/// written for so long, it waits for nothing but news.
const QUIET: Duration = Duration::from_millis(600);
pub const TAKEN_BACK: &str = "presence taken back";
const POLL: Duration = Duration::from_millis(5);
/// Far more than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Heard {
    /// Microseconds since 1970.
    pub at: i64,
    /// `batch launching`, `presence idle`, `task started`.
    pub what: String,
}

pub struct Tap {
    heard: Arc<Mutex<Vec<Heard>>>,
    listening: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Tap {
    pub async fn open(client: &Client) -> Self {
        let presences = format!("$KV.{WORKERS_BUCKET}.>");
        let mut streams = Vec::new();
        for subject in [LOG_ALL, BATCHLOG_ALL, &presences] {
            let stream = client.subscribe(subject.to_owned()).await;
            streams.push(stream.expect("the bench may hear everything"));
        }
        client.flush().await.expect("NATS answers");
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let (into, mut messages) = (Arc::clone(&heard), select_all(streams));
        let listening = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let at = now_us();
                if let Some(what) = told(&message) {
                    lock(&into).push(Heard { at, what });
                }
            }
        });
        Self { heard, listening }
    }

    /// What was heard after `from` and up to `to`.
    pub fn between(&self, from: i64, to: i64) -> Vec<Heard> {
        let heard = lock(&self.heard);
        let within = heard
            .iter()
            .filter(|heard| heard.at > from && heard.at <= to);
        within.cloned().collect()
    }

    /// Waits for the first such thing after `from`.
    pub async fn first(&self, what: &str, from: i64) -> Heard {
        self.find(&format!("{what} is heard"), |heard| {
            heard.at > from && heard.what == what
        })
        .await
    }

    pub async fn find(&self, goal: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let began = std::time::Instant::now();
        loop {
            if let Some(found) = lock(&self.heard).iter().find(|heard| wanted(heard)) {
                return found.clone();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain until {goal}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until nothing was written for a while.
    pub async fn quiet(&self) {
        let quiet = i64::try_from(QUIET.as_micros()).expect("it is short");
        let asked = now_us();
        loop {
            let last = lock(&self.heard).last().map_or(asked, |heard| heard.at);
            if now_us() - last.max(asked) >= quiet {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn told(message: &Message) -> Option<String> {
    let subject = message.subject.as_str();
    if let Some((_, status)) = parse_batchlog_subject(subject) {
        return Some(format!("batch {status}"));
    }
    if let Some((_, event)) = parse_log_subject(subject) {
        return Some(format!("task {}", event.as_str()));
    }
    let presence = Presence::decode(message.payload.clone()).ok()?;
    if presence.worker.is_empty() {
        return Some(TAKEN_BACK.to_owned());
    }
    let state = presence.state().as_str_name().to_lowercase();
    Some(format!("presence {state}"))
}

pub fn now_us() -> i64 {
    ambient::now().as_microsecond()
}

fn lock(heard: &Mutex<Vec<Heard>>) -> parking_lot::MutexGuard<'_, Vec<Heard>> {
    heard.lock()
}
