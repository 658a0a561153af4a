//! What clients were promised, and what the public events say became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::Client;
use futures::StreamExt;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use spotreel_domain::Event;
use tokio::task::JoinHandle;

/// Shared by all clients.
#[derive(Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Every task that was accepted, with the number of its rounds.
    pub accepted: BTreeMap<String, u32>,
    /// By task and round: how it ended, as often as that was said.
    pub ends: BTreeMap<(String, u32), Vec<String>>,
    /// Public events of tasks, of all kinds.
    pub events: u64,
    /// What clients did and what they were answered.
    pub counts: BTreeMap<String, u64>,
    /// Answers that should not be.
    pub refusals: Vec<String>,
}

impl Ledger {
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock()
    }

    pub fn accepted(&self, id: &str, door: &str) {
        let mut book = self.book();
        book.accepted.insert(id.to_owned(), 1);
        *book.counts.entry(format!("by {door}")).or_default() += 1;
    }

    pub fn count(&self, what: &str) {
        *self.book().counts.entry(what.to_owned()).or_default() += 1;
    }

    pub fn refused(&self, what: String) {
        self.book().refusals.push(what);
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.book().counts.clone()
    }

    /// Accepted, and not said to have ended in their last round.
    pub fn running(&self) -> Vec<String> {
        let book = self.book();
        let accepted = book.accepted.iter();
        let running =
            accepted.filter(|(id, round)| !book.ends.contains_key(&((*id).clone(), **round)));
        running.map(|(id, _)| id.clone()).collect()
    }

    fn hear(&self, subject: &str, body: &Value) {
        let Some((id, event)) = subject
            .strip_prefix("spotreel.task.")
            .and_then(|rest| rest.split_once('.'))
        else {
            return;
        };
        let mut book = self.book();
        book.events += 1;
        if Event::parse(event).is_some_and(Event::is_terminal) {
            let round = body["data"]["round"].as_u64().unwrap_or_default();
            let round = u32::try_from(round).unwrap_or_default();
            let ends = book.ends.entry((id.to_owned(), round)).or_default();
            ends.push(event.to_owned());
        }
    }
}

/// Notes every public event from now on.
pub async fn listen(client: &Client, ledger: &Arc<Ledger>) -> JoinHandle<()> {
    let events = client.subscribe("spotreel.task.>").await;
    let mut events = events.expect("clients may hear events");
    client.flush().await.expect("NATS answers");
    let ledger = Arc::clone(ledger);
    tokio::spawn(async move {
        while let Some(message) = events.next().await {
            let body = serde_json::from_slice(&message.payload).unwrap_or_default();
            ledger.hear(&message.subject, &body);
        }
    })
}
