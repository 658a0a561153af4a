//! Which programs answer.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use spotreel_bus::jetstream::{self, JetStreamError};
use spotreel_bus::names::{CONSUMER_NOTIFIER, TASKS};
use tokio::time::Instant;

/// Every service answers it (ADR-32 of NATS).
const PING: &str = "$SRV.PING";
/// How long answers are collected. A program that is slower once is not silent: the alarm holds for longer.
const COLLECTED_FOR: Duration = Duration::from_secs(1);
/// This program offers a service, too: without its own answer nothing is known of the others.
const OURSELVES: &str = "monitor";
/// It may answer requests while its events stand still, so it is judged by its pulls.
const NOTIFIER: &str = "notifier";

pub(super) struct Programs {
    client: Client,
    /// How far notifier had come one look ago.
    told_to: Option<u64>,
}

impl Programs {
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            told_to: None,
        }
    }

    /// Those that answer now; nobody is waited for once all of `wanted` have. None: it cannot be known.
    pub async fn answering(&mut self, wanted: &[String]) -> Option<BTreeSet<String>> {
        let mut found = self.pinged(wanted).await?;
        match self.notifier_pulls().await {
            Ok(true) => found.insert(NOTIFIER.to_owned()),
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(error = %spotreel_domain::chain(&error), "consumer of notifier cannot be read");
                return None;
            }
        };
        Some(found)
    }

    async fn pinged(&self, wanted: &[String]) -> Option<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Pong {
            name: String,
        }
        let until = Instant::now() + COLLECTED_FOR;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
        let asked = self.client.publish_with_reply(PING, inbox, Bytes::new());
        asked.await.ok()?;
        let mut found = BTreeSet::new();
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
            let Ok(Pong { name }) = serde_json::from_slice(&answer.payload) else {
                continue;
            };
            if let Some(program) = name.strip_prefix("spotreel-")
                && program != NOTIFIER
            {
                found.insert(program.to_owned());
            }
            let is_answered = |name: &String| name == NOTIFIER || found.contains(name);
            if found.contains(OURSELVES) && wanted.iter().all(is_answered) {
                break;
            }
        }
        found.contains(OURSELVES).then_some(found)
    }

    /// Whether a pull of notifier waits at the server, or its events have gone on since the last look.
    async fn notifier_pulls(&mut self) -> Result<bool, JetStreamError> {
        #[derive(Deserialize)]
        struct Info {
            num_waiting: u64,
            ack_floor: Floor,
        }
        #[derive(Deserialize)]
        struct Floor {
            stream_seq: u64,
        }
        let info: Info = jetstream::consumer_info(&self.client, TASKS, CONSUMER_NOTIFIER).await?;
        let told_to = info.ack_floor.stream_seq;
        let before = self.told_to.replace(told_to);
        Ok(info.num_waiting > 0 || before.is_some_and(|before| before != told_to))
    }
}
