//! What the log, the public events and the store say, read with the operator's rights and nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::Client;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use futures::StreamExt;
use serde_json::Value;
use spotreel_bus::log::MAX_BATCH;
use spotreel_bus::names::{self, EVENTS, HEADER_LOG_SEQUENCE, LOG_ALL, TASKS};
use spotreel_bus::{Recorded, TaskLog};
use spotreel_domain::{Event, Lane, Model};

const QUIET: Duration = Duration::from_secs(5);

pub struct Evidence {
    /// All that the log holds, in its order.
    pub log: Vec<Recorded>,
    pub events: Vec<Published>,
    pub tasks: BTreeMap<String, Story>,
}

/// One message of EVENTS.
#[derive(Clone, Debug)]
pub struct Published {
    pub subject: String,
    pub log_sequence: u64,
    pub body: Value,
}

/// One task, told by both streams.
#[derive(Default)]
pub struct Story {
    pub logged: Vec<Recorded>,
    pub published: Vec<Published>,
    /// Both, by the log's sequence.
    pub chapters: BTreeMap<u64, Chapter>,
}

#[derive(Clone, Debug)]
pub struct Chapter {
    pub event: Event,
    pub round: u32,
    pub failures: u32,
}

impl Evidence {
    pub async fn gather(client: &Client) -> anyhow::Result<Self> {
        let log = scan(client).await?;
        let events = read_events(client).await?;
        let mut tasks: BTreeMap<String, Story> = BTreeMap::new();
        for one in &log {
            tasks
                .entry(one.task.id.to_string())
                .or_default()
                .logged
                .push(one.clone());
        }
        for one in &events {
            if let Some((id, _)) = one.of_task() {
                tasks
                    .entry(id.to_owned())
                    .or_default()
                    .published
                    .push(one.clone());
            }
        }
        tasks.values_mut().for_each(Story::weave);
        // A rejected submission has events, but never was a task.
        tasks.retain(|_, story| !story.chapters.is_empty());
        Ok(Self { log, events, tasks })
    }
}

impl Published {
    pub fn of_task(&self) -> Option<(&str, &str)> {
        self.subject.strip_prefix("spotreel.task.")?.split_once('.')
    }

    fn chapter(&self) -> Option<Chapter> {
        let (_, event) = self.of_task()?;
        let number = |name: &str| {
            self.body["data"][name]
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
        };
        Some(Chapter {
            event: Event::parse(event)?,
            round: number("round")?,
            failures: number("failures")?,
        })
    }
}

impl Story {
    pub fn last(&self) -> Option<&Recorded> {
        self.logged.last()
    }

    fn weave(&mut self) {
        for one in &self.published {
            if let Some(chapter) = one.chapter() {
                self.chapters.insert(one.log_sequence, chapter);
            }
        }
        for one in &self.logged {
            let (event, round, failures) = (one.event, one.task.round, one.task.failures);
            self.chapters.insert(
                one.sequence,
                Chapter {
                    event,
                    round,
                    failures,
                },
            );
        }
    }

    /// For the report: `queued started lost …`.
    pub fn told(&self) -> String {
        let words = self
            .chapters
            .iter()
            .map(|(seq, chapter)| format!("{}@{seq}", chapter.event.as_str()));
        words.collect::<Vec<_>>().join(" ")
    }
}

pub async fn scan(client: &Client) -> anyhow::Result<Vec<Recorded>> {
    let log = TaskLog::open(client).await;
    let mut found: Vec<Recorded> = Vec::new();
    loop {
        let from = found.last().map_or(1, |last| last.sequence + 1);
        let more = log
            .scan(LOG_ALL, from, MAX_BATCH)
            .await
            .context("the log cannot be scanned")?;
        if more.is_empty() {
            return Ok(found);
        }
        found.extend(more);
    }
}

async fn read_events(client: &Client) -> anyhow::Result<Vec<Published>> {
    let context = async_nats::jetstream::new(client.clone());
    let stream = context.get_stream(EVENTS).await?;
    let state = stream.cached_info().state.clone();
    let mut found = Vec::new();
    if state.messages == 0 {
        return Ok(found);
    }
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    loop {
        let next = tokio::time::timeout(QUIET, messages.next())
            .await
            .context("EVENTS fell silent")?;
        let message = next.context("EVENTS ended early")??;
        let sequence = message
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        let header = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(HEADER_LOG_SEQUENCE));
        found.push(Published {
            subject: message.subject.to_string(),
            log_sequence: header
                .and_then(|value| value.as_str().parse().ok())
                .unwrap_or_default(),
            body: serde_json::from_slice(&message.payload).context("a public event is no JSON")?,
        });
        if sequence >= state.last_sequence {
            return Ok(found);
        }
    }
}

/// Pending and ack-pending of the work consumers, as people count the queue.
pub async fn counts(client: &Client) -> anyhow::Result<Vec<(String, u64)>> {
    let context = async_nats::jetstream::new(client.clone());
    let mut found = Vec::new();
    for model in Model::ALL {
        for lane in Lane::ALL {
            let name = names::work_consumer(model, lane);
            let mut consumer: PullConsumer =
                context
                    .get_consumer_from_stream(&name, TASKS)
                    .await
                    .map_err(|error| anyhow::anyhow!("consumer {name}: {error}"))?;
            let info = consumer.info().await?;
            found.push((name, info.num_pending + info.num_ack_pending as u64));
        }
    }
    Ok(found)
}

/// Waits until every task of the log is terminal, no work item is left, and everything is published.
pub async fn settle(client: &Client, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let open = match unsettled(client).await {
            Ok(open) if open.is_empty() => return Ok(()),
            Ok(open) => open,
            Err(error) => format!("{error:#}"),
        };
        if begun.elapsed() > limit {
            anyhow::bail!("after {limit:?}: {open}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn unsettled(client: &Client) -> anyhow::Result<String> {
    let mut newest: BTreeMap<String, Recorded> = BTreeMap::new();
    let log = scan(client).await?;
    let end = log.last().map_or(0, |last| last.sequence);
    for one in log {
        newest.insert(one.task.id.to_string(), one);
    }
    let mut open: Vec<String> = newest
        .values()
        .filter(|last| !last.task.is_terminal())
        .map(|last| format!("{} is {}", last.task.id, last.task.state.name()))
        .collect();
    let context = async_nats::jetstream::new(client.clone());
    for (stream, consumer) in [
        (TASKS, names::CONSUMER_NOTIFIER),
        (names::INBOX, names::CONSUMER_INTAKE),
    ] {
        let mut found: PullConsumer = context
            .get_consumer_from_stream(consumer, stream)
            .await
            .map_err(|error| anyhow::anyhow!("{consumer}: {error}"))?;
        let info = found.info().await?;
        let left = info.num_pending + info.num_ack_pending as u64;
        if left > 0 {
            open.push(format!(
                "{consumer} has {left} of the log (to {end}) before it"
            ));
        }
    }
    let queues = counts(client)
        .await?
        .into_iter()
        .filter(|(_, count)| *count > 0);
    open.extend(queues.map(|(name, count)| format!("{name} counts {count}")));
    Ok(open.join(", "))
}
