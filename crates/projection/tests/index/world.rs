//! Tasks and their log, without a server.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use spotreel_api::{SearchQuery, TaskRequest};
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_domain::{Event, Owner, Task, TaskId};
use spotreel_projection::{Found, Index, LogMark};

pub const LOG: &str = "TASKS";

pub struct World {
    pub now: Timestamp,
    /// Of the newest event.
    pub sequence: u64,
    /// What was not applied yet.
    pub waiting: Vec<(u64, Task)>,
    pub events: Vec<(u64, Task)>,
    pub tasks: BTreeMap<String, (u64, Task)>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            sequence: 0,
            waiting: Vec::new(),
            events: Vec::new(),
            tasks: BTreeMap::new(),
        }
    }
}

pub fn mark(sequence: u64) -> LogMark {
    LogMark {
        sequence,
        stored_ns: i64::try_from(sequence).unwrap() * 1_000,
    }
}

pub fn search(index: &Index, query: &str) -> Found {
    let query: SearchQuery = serde_json::from_str(query).unwrap();
    index.search(&query.check().unwrap()).unwrap()
}

impl World {
    pub fn submit(
        &mut self,
        name: &str,
        owner: Option<&str>,
        prompt: &str,
        labels: &[(&str, &str)],
    ) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: prompt.into(),
            labels: labels.collect(),
            ..TaskRequest::default()
        };
        let owner = owner.map(|owner| Owner::parse(owner).unwrap());
        let valid = request.validate(self.now).unwrap();
        let id = TaskId::parse(name).unwrap();
        let step = Task::submit_for(owner, id, valid.spec, valid.content_hash, self.now);
        self.append(step);
    }

    pub fn start(&mut self, name: &str, instance: &str) {
        let step = self.task(name).started("w", instance, 0, self.now).unwrap();
        self.append(step);
    }

    /// For good.
    pub fn fail(&mut self, name: &str, message: &str) {
        let failure = Failure {
            kind: FailureKind::Invalid,
            message: message.into(),
        };
        let task = self.task(name);
        let step = task.attempt_failed(failure, self.now).unwrap();
        self.append(step);
    }

    pub fn cancel(&mut self, name: &str) {
        let step = self.task(name).cancelled(self.now).unwrap();
        self.append(step);
    }

    pub fn retry(&mut self, name: &str) {
        let step = self.task(name).requeued(self.now).unwrap();
        self.append(step);
    }

    /// Its id is free again.
    pub fn forget(&mut self, name: &str) {
        self.tasks.remove(name);
    }

    pub fn task(&self, name: &str) -> Task {
        self.tasks[name].1.clone()
    }

    /// The sequence of its newest event.
    pub fn last(&self, name: &str) -> u64 {
        self.tasks[name].0
    }

    /// Hands the index what it does not have yet.
    pub fn apply(&mut self, index: &mut Index) {
        index.mark(LOG, "log 1").unwrap().unwrap();
        let waiting = std::mem::take(&mut self.waiting);
        index
            .apply_tasks(LOG, waiting, mark(self.sequence))
            .unwrap();
    }

    fn append(&mut self, (event, task): (Event, Task)) {
        self.sequence += 1;
        self.now += SignedDuration::from_secs(1);
        let placed = (self.sequence, task.placed_at(self.sequence, event));
        self.tasks.insert(placed.1.id.to_string(), placed.clone());
        self.events.push(placed.clone());
        self.waiting.push(placed);
    }
}
