//! The worker's presence record, with metrics of its accelerators.

use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::ambient;
use spotreel_bus::kv;
use spotreel_domain::{Model, TaskId};
use spotreel_proto::worker::v1::{Gpu, Presence, State};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Three times within the time after which a silent worker is no longer counted.
const EVERY: Duration = Duration::from_secs(kv::PRESENCE_TTL.as_secs() / 3);
/// A presence that could not be written is tried again so soon: readers decide by it.
const AGAIN: Duration = Duration::from_secs(1);
/// Time in which a worker that has nothing in hand is drained after it was told to leave: one record says both then.
const DRAINED_WITHIN: Duration = Duration::from_millis(100);
/// Maximum time to write the last presence record; then the worker leaves without it.
const LAST_WORD: Duration = Duration::from_secs(3);

/// What the worker is, in one place; [`PresenceBoard::announce`] tells it on.
#[derive(Clone)]
pub struct PresenceBoard {
    now: watch::Sender<Facts>,
    told: watch::Sender<Facts>,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    presence: Presence,
    serves: bool,
    leaves: bool,
    left: bool,
    rendering: Option<TaskId>,
    uploading: Option<TaskId>,
}

impl Facts {
    fn holds_any(&self) -> bool {
        self.rendering.is_some() || self.uploading.is_some()
    }

    fn is_soon_drained(&self) -> bool {
        self.state() == State::Draining && !self.holds_any()
    }

    fn state(&self) -> State {
        match self {
            Self { left: true, .. } => State::Drained,
            Self { leaves: true, .. } => State::Draining,
            Self { serves: false, .. } => State::Starting,
            _ if self.holds_any() => State::Busy,
            _ => State::Idle,
        }
    }

    fn settle(&mut self) {
        let state = self.state();
        let presence = &mut self.presence;
        if presence.state() != state {
            presence.set_state(state);
            presence.state_since_ms = ambient::now().as_millisecond();
        }
        presence.stopping = self.leaves;
        let task = self.rendering.as_ref().or(self.uploading.as_ref());
        presence.task = task.map(ToString::to_string).unwrap_or_default();
    }

    /// What is worth a write of its own; steps and temperatures wait for their turn.
    fn is_news_after(&self, told: &Self) -> bool {
        let news = |facts: &Self| {
            let p = &facts.presence;
            (p.state, p.task.clone(), p.notice_at_ms, p.rebalance)
        };
        news(self) != news(told)
    }
}

impl PresenceBoard {
    pub fn new(name: &str, instance: &str, models: &[Model]) -> Self {
        let mut facts = Facts {
            presence: Presence {
                worker: name.to_owned(),
                instance: instance.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                models: models.iter().map(|m| m.as_str().to_owned()).collect(),
                ..Presence::default()
            },
            ..Facts::default()
        };
        facts.settle();
        Self {
            now: watch::Sender::new(facts),
            told: watch::Sender::new(Facts::default()),
        }
    }

    pub fn update(&self, change: impl FnOnce(&mut Presence)) {
        self.change(|facts| change(&mut facts.presence));
    }

    /// The engine runs and the queues are open.
    pub fn serve(&self) {
        self.change(|facts| facts.serves = true);
    }

    /// Nothing more is pulled.
    pub fn leave(&self) {
        self.change(|facts| facts.leaves = true);
    }

    pub fn render(&self, task: Option<&TaskId>) {
        self.change(|facts| {
            facts.rendering = task.cloned();
            (facts.presence.step, facts.presence.steps) = (0, 0);
        });
    }

    pub fn upload(&self, task: Option<&TaskId>) {
        self.change(|facts| facts.uploading = task.cloned());
    }

    pub fn holds_any(&self) -> bool {
        self.now.borrow().holds_any()
    }

    /// The cloud has said that it may take the machine.
    pub fn is_hinted(&self) -> bool {
        self.now.borrow().presence.rebalance
    }

    /// Until nothing is in hand.
    pub async fn free(&self) {
        let _ = self
            .now
            .subscribe()
            .wait_for(|facts| !facts.holds_any())
            .await;
    }

    /// Nothing is in hand and nothing will be; returns when that is written, or cannot be.
    pub async fn drained(&self) {
        self.change(|facts| (facts.leaves, facts.left) = (true, true));
        let told = self.told_to_leave(true);
        if tokio::time::timeout(LAST_WORD, told).await.is_err() {
            tracing::debug!("last presence record was not written in time");
        }
    }

    /// Until others can read that this worker takes nothing more. One that has nothing in hand is drained in a moment,
    /// so that is waited for.
    pub async fn leaving_told(&self) -> State {
        self.told_to_leave(false).await
    }

    async fn told_to_leave(&self, drained: bool) -> State {
        let mut told = self.told.subscribe();
        let settled = told
            .wait_for(|facts| match facts.presence.state() {
                State::Drained => true,
                State::Draining => !drained && facts.holds_any(),
                _ => false,
            })
            .await;
        settled.map_or(State::Drained, |facts| facts.presence.state())
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.now.send_modify(|facts| {
            change(facts);
            facts.settle();
        });
    }

    /// Says it at every change of state, and again and again, until `ended`; then takes it back.
    pub async fn announce(self, client: Client, ended: CancellationToken) {
        let nvml = nvml_wrapper::Nvml::init().ok();
        if nvml.is_none() {
            tracing::debug!("NVML not available: no GPU metrics");
        }
        let mut changes = self.now.subscribe();
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    let gpus = nvml.as_ref().map(gpus).unwrap_or_default();
                    self.update(|presence| presence.gpus = gpus);
                }
                _ = changes.changed() => {
                    let facts = changes.borrow_and_update();
                    if !facts.is_news_after(&self.told.borrow()) {
                        continue;
                    }
                    if facts.is_soon_drained() {
                        next = next.min(tokio::time::Instant::now() + DRAINED_WITHIN);
                        continue;
                    }
                }
                () = ended.cancelled() => break,
            }
            let pause = if self.put(&client).await {
                EVERY
            } else {
                AGAIN
            };
            next = tokio::time::Instant::now() + pause;
        }
        let Presence {
            worker: name,
            notice_at_ms,
            ..
        } = self.now.borrow().presence.clone();
        // Why a machine is taken stays to be read, until it falls silent: whoever looks later could not tell it from one
        // that left by itself.
        if notice_at_ms != 0 {
            return;
        }
        let removed = kv::remove_presence(&client, &name);
        if !matches!(tokio::time::timeout(LAST_WORD, removed).await, Ok(Ok(()))) {
            tracing::debug!("deleting the presence record failed; it will expire");
        }
    }

    async fn put(&self, client: &Client) -> bool {
        let mut facts = self.now.borrow().clone();
        facts.presence.at_ms = ambient::now().as_millisecond();
        match kv::put_presence(client, &facts.presence).await {
            Ok(()) => {
                self.told.send_replace(facts);
                true
            }
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), "writing the presence record failed");
                false
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state(board: &PresenceBoard) -> State {
        board.now.borrow().presence.state()
    }

    #[test]
    fn a_worker_is_what_it_has_in_hand() {
        let board = PresenceBoard::new("w", "i-1", &[]);
        let (a, b) = (TaskId::parse("a").unwrap(), TaskId::parse("b").unwrap());
        assert_eq!(state(&board), State::Starting);
        board.serve();
        assert_eq!(state(&board), State::Idle);
        board.render(Some(&a));
        assert_eq!(state(&board), State::Busy);
        board.upload(Some(&a));
        board.render(None);
        assert_eq!(state(&board), State::Busy, "an upload is in hand too");
        assert_eq!(board.now.borrow().presence.task, "a");
        board.render(Some(&b));
        assert_eq!(board.now.borrow().presence.task, "b");
        board.leave();
        assert_eq!(state(&board), State::Draining);
        assert!(!board.now.borrow().is_soon_drained(), "others have to know");
        board.upload(None);
        board.render(None);
        assert_eq!(state(&board), State::Draining, "until its loop has ended");
        assert!(board.now.borrow().is_soon_drained());
        board.change(|facts| facts.left = true);
        assert_eq!(state(&board), State::Drained);
        assert!(!board.now.borrow().is_soon_drained(), "it is told at once");
    }
}
