//! Steady work through every door: tasks at an even rate, questions beside them, some changes of mind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use spotreel_api::{ErrorCode, ListPage, TaskView};
use spotreel_bootstrap::ambient;
use spotreel_bus::names::INBOX_SUBJECT;
use spotreel_tests::harness::{Api, tasks};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::system::Soaked;

/// Tasks of one list.
const LIST: usize = 3;
/// Of so many tasks one is cancelled, and of so many of those one is wanted after all.
const CANCELLED: u64 = 10;
const RETRIED: u64 = 2;
/// Questions: one task, and a page of the newest.
const ASK_EVERY: Duration = Duration::from_millis(500);
const STEPS: u32 = 2;

pub struct Clients {
    all: JoinSet<()>,
    stopping: CancellationToken,
}

#[derive(Clone)]
struct Client {
    api: Api,
    web: reqwest::Client,
    tasks_url: String,
    ledger: Arc<Ledger>,
    sent: Arc<AtomicU64>,
}

pub fn start(soaked: &Soaked, ledger: &Arc<Ledger>, rate: f64) -> Clients {
    let client = Client {
        api: Api::new(soaked.client.clone()),
        web: reqwest::Client::new(),
        tasks_url: format!("{}/v1/tasks", soaked.system.intake.spec.api_url()),
        ledger: Arc::clone(ledger),
        sent: Arc::default(),
    };
    let stopping = CancellationToken::new();
    let mut all = JoinSet::new();
    let (submitting, asking) = (client.clone(), client);
    all.spawn(every(
        Duration::from_secs_f64(1.0 / rate),
        stopping.clone(),
        async move || submitting.submit().await,
    ));
    all.spawn(every(ASK_EVERY, stopping.clone(), async move || {
        asking.ask().await;
    }));
    Clients { all, stopping }
}

impl Clients {
    /// What is under way is ended.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        while let Some(done) = self.all.join_next().await {
            done.expect("a client does not panic");
        }
    }
}

async fn every(period: Duration, stopping: CancellationToken, mut act: impl AsyncFnMut()) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(tick.tick()).await.is_some() {
        act().await;
    }
}

impl Client {
    /// The next task, by the next door; a list is due as often as its tasks are.
    async fn submit(&self) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        match number % 6 {
            0 => self.inbox().await,
            1 => self.list().await,
            // The list had their tasks.
            2 | 3 => {}
            4 => self.http().await,
            _ => self.single().await,
        }
        if number % CANCELLED == 4 {
            self.change_ones_mind(number / CANCELLED).await;
        }
    }

    async fn single(&self) {
        let (id, task) = task();
        match self.api.ask::<Value>("submit", &task).await {
            Ok(_) => self.ledger.accepted(&id, "request"),
            Err(refused) => self.ledger.refused(format!("submit {id}: {refused:?}")),
        }
    }

    async fn http(&self) {
        let (id, task) = task();
        let sent = self
            .web
            .post(&self.tasks_url)
            .header("content-type", "application/json")
            .body(task.to_string())
            .send();
        match sent.await {
            Ok(answer) if answer.status() == reqwest::StatusCode::CREATED => {
                self.ledger.accepted(&id, "HTTP");
            }
            other => self.ledger.refused(format!("POST {id}: {other:?}")),
        }
    }

    async fn list(&self) {
        let (ids, tasks): (Vec<_>, Vec<_>) = (0..LIST).map(|_| task()).unzip();
        let answer = self.api.ask::<Value>("submit", &json!(tasks)).await;
        match answer {
            Ok(answer) if answer["refused"] == 0 => {
                ids.iter().for_each(|id| self.ledger.accepted(id, "list"));
            }
            other => self.ledger.refused(format!("submit {ids:?}: {other:?}")),
        }
    }

    async fn inbox(&self) {
        let (id, task) = task();
        let sent = self
            .api
            .client
            .request(INBOX_SUBJECT, task.to_string().into());
        match sent.await {
            Ok(answer) if answer.payload.starts_with(b"{\"stream\"") => {
                self.ledger.accepted(&id, "inbox");
            }
            other => self.ledger.refused(format!("inbox {id}: {other:?}")),
        }
    }

    /// Cancels a task of its own, and retries some of those.
    async fn change_ones_mind(&self, number: u64) {
        let (id, task) = task();
        if self.api.ask::<Value>("submit", &task).await.is_err() {
            return self.ledger.refused(format!("submit {id}, to be cancelled"));
        }
        self.ledger.accepted(&id, "request");
        match self.api.cancel(&id).await {
            Ok(_) => self.ledger.count("cancelled"),
            // It was quicker.
            Err(Some(error)) if error.code == ErrorCode::NotAllowed => return,
            Err(refused) => {
                return self.ledger.refused(format!("cancel {id}: {refused:?}"));
            }
        }
        if !number.is_multiple_of(RETRIED) {
            return;
        }
        match self.api.retry(&id).await {
            Ok(task) => {
                self.ledger.count("retried");
                self.ledger.book().accepted.insert(id, task.round);
            }
            Err(refused) => self.ledger.refused(format!("retry {id}: {refused:?}")),
        }
    }

    /// One task that is not forgotten yet, and the newest.
    async fn ask(&self) {
        let running = self.ledger.running();
        if !running.is_empty() {
            let drawn = ambient::random_u64() % running.len() as u64;
            let id = &running[usize::try_from(drawn).unwrap_or_default()];
            match self.api.ask::<TaskView>("get", &json!({ "id": id })).await {
                Ok(_) => self.ledger.count("got"),
                // The message of an inbox is not taken yet, or the task was forgotten meanwhile.
                Err(Some(error)) if error.code == ErrorCode::NotFound => {
                    self.ledger.count("got nothing");
                }
                Err(refused) => self.ledger.refused(format!("get {id}: {refused:?}")),
            }
        }
        let newest = json!({ "limit": 20 });
        match self.api.ask::<ListPage>("list", &newest).await {
            Ok(_) => self.ledger.count("listed"),
            Err(refused) => self.ledger.refused(format!("list: {refused:?}")),
        }
    }
}

fn task() -> (String, Value) {
    let id = tasks::name("soak");
    let task = tasks::small(&id, STEPS);
    (id, task)
}
