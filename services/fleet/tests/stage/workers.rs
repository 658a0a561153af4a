//! Workers as the test plays them: presence, answers to drains, and tasks that succeed when it says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use spotreel_bootstrap::ambient;
use spotreel_bus::names::{TASKS, work_consumer, worker_drain};
use spotreel_bus::{Delivery, Queue, kv};
use spotreel_domain::{Lane, Model, Priority, Task};
use spotreel_proto::worker::v1::{Presence, State};
use spotreel_test_kit::{Logs, Written};

use super::PATIENCE;

#[derive(Clone)]
pub struct Workers {
    logs: Logs,
    states: Arc<Mutex<BTreeMap<String, State>>>,
}

impl Workers {
    pub fn new(logs: &Logs) -> Self {
        Self {
            logs: logs.clone(),
            states: Arc::default(),
        }
    }

    pub async fn say(&self, instance: &str, state: State) {
        self.states
            .lock()
            .unwrap()
            .insert(instance.to_owned(), state);
        let presence = Presence {
            worker: format!("w-{instance}"),
            instance: instance.to_owned(),
            models: vec!["ti2v-5B".to_owned()],
            pool: "default".to_owned(),
            state: state.into(),
            task: match state {
                State::Busy | State::Draining => "a-task".to_owned(),
                _ => String::new(),
            },
            at_ms: ambient::now().as_millisecond(),
            ..Presence::default()
        };
        kv::put_presence(&self.logs.client, &presence)
            .await
            .unwrap();
    }

    /// The worker of a machine that EC2 takes has handed back what it held.
    pub async fn hand_back(&self, instance: &str, notice_at: Timestamp) {
        let mut presences = kv::presences(&self.logs.client).await.unwrap().into_iter();
        let presence = presences.find(|p| p.instance == instance).unwrap();
        let presence = Presence {
            state: State::Drained.into(),
            task: String::new(),
            notice_at_ms: notice_at.as_millisecond(),
            ..presence
        };
        kv::put_presence(&self.logs.client, &presence)
            .await
            .unwrap();
    }

    /// A worker comes up on this machine. One that is idle is drained at once when told; a busy one when it is `done`,
    /// or told to hand back.
    pub async fn come_up(&self, instance: &str, state: State) {
        let mut orders = self
            .logs
            .client
            .subscribe(worker_drain(instance))
            .await
            .unwrap();
        self.logs.client.flush().await.unwrap();
        self.say(instance, state).await;
        let (workers, instance) = (self.clone(), instance.to_owned());
        tokio::spawn(async move {
            while let Some(order) = orders.next().await {
                let body: Value = serde_json::from_slice(&order.payload).unwrap();
                let busy = {
                    let states = workers.states.lock().unwrap();
                    matches!(states[&instance], State::Busy | State::Draining)
                };
                let (state, word) = match busy && body["mode"] == "finish" {
                    true => (State::Draining, "draining"),
                    false => (State::Drained, "drained"),
                };
                workers.say(&instance, state).await;
                let reply = json!({ "state": word }).to_string();
                let to = order.reply.unwrap();
                workers.logs.client.publish(to, reply.into()).await.unwrap();
            }
        });
    }

    /// Takes a task from the queue and says so.
    pub async fn take(&self, instance: &str) -> InHand {
        let name = work_consumer(Model::Ti2v5b, Lane::front(Priority::Normal));
        let queue = Queue::open(&self.logs.client, TASKS, &name).await.unwrap();
        let delivery = queue.pull(PATIENCE).await.unwrap().unwrap();
        let queued = Written {
            task: delivery.recorded().unwrap().task,
            sequence: delivery.sequence,
        };
        let worker = format!("w-{instance}");
        let start = |task: &Task| task.started(&worker, instance, 0, ambient::now());
        let task = self.logs.next(&queued, start).await;
        self.say(instance, State::Busy).await;
        InHand { task, delivery }
    }

    pub async fn succeed(&self, instance: &str, hand: InHand) {
        let key = format!("renders/{}/1.mp4", hand.task.task.id);
        self.logs.succeeded(&hand.task, &key).await;
        hand.delivery.ack().await.unwrap();
        self.say(instance, State::Idle).await;
    }
}

pub struct InHand {
    task: Written,
    delivery: Delivery,
}
