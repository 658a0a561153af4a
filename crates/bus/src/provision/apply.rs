//! Makes what is missing, widens what is too narrow, and leaves the rest to a person.
//!
//! The server's answers are kept as JSON: an update sends every field back, so also those that this version does not know.
//! Each step is one request and is decided by what is there, so it is safe to be killed between two, and to run twice at once.

use std::time::Duration;

use async_nats::jetstream::consumer::{IntoConsumerConfig, pull};
use async_nats::jetstream::stream::Config;
use async_nats::{Client, HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::compare::{self, Comparison};
use super::{Layout, consumers, events_mirror, streams};
use crate::connect::REQUEST_TIMEOUT;
use crate::jetstream::{JetStreamError, consumer_info, next_message, request, stream_info};
use crate::names::{CONSUMER_DEADLINES, CONSUMER_SWEEPER, TASKS};

/// Looks at one thing: it is made, it is widened, and others do the same at the same time.
const LOOKS: usize = 5;
/// How often, and for how long, a consumer is watched until nobody has read it several times in a row. A pull of a program that
/// has ended counts for as long as it would have waited.
const PAUSE: Duration = Duration::from_millis(300);
const UNREAD_LOOKS: usize = 4;
const MAX_LOOKS: usize = 50;

/// What was done about one thing, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ProvisionOutcome {
    Created,
    AsWanted,
    /// It was too narrow for this version, and is wide enough now.
    Updated {
        changes: Vec<String>,
    },
    /// Of a check: it would be created.
    Missing,
    /// Of a check: it would be updated.
    Outdated {
        changes: Vec<String>,
    },
    /// It exists and differs in what only a person may change; it is left as it is.
    Differs {
        differences: Vec<String>,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub name: String,
    #[serde(flatten)]
    pub outcome: ProvisionOutcome,
    /// Where there is more than this version needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

impl Report {
    pub fn new(name: String, outcome: ProvisionOutcome) -> Self {
        let kept = Vec::new();
        Self {
            name,
            outcome,
            kept,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be provisioned: {reason}")]
pub struct ProvisionError {
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Apply,
    /// Changes nothing and says what would be changed.
    Check,
}

/// Makes what is missing in the services' account, and widens what is too narrow.
pub async fn apply(client: &Client, layout: &Layout) -> Result<Vec<Report>, ProvisionError> {
    provide(client, layout, Mode::Apply).await
}

pub async fn provide(
    client: &Client,
    layout: &Layout,
    mode: Mode,
) -> Result<Vec<Report>, ProvisionError> {
    let mut reports = Vec::new();
    for config in streams(layout) {
        reports.push(Thing::stream(config).provide(client, mode).await?);
    }
    for (stream, config) in consumers(layout) {
        reports.push(
            Thing::consumer(stream, config)
                .provide(client, mode)
                .await?,
        );
    }
    Ok(reports)
}

/// The same for the clients' copy of the events.
pub async fn apply_clients(client: &Client, layout: &Layout) -> Result<Report, ProvisionError> {
    provide_clients(client, layout, Mode::Apply).await
}

pub async fn provide_clients(
    client: &Client,
    layout: &Layout,
    mode: Mode,
) -> Result<Report, ProvisionError> {
    let thing = Thing::stream(events_mirror(layout));
    thing.provide(client, mode).await
}

/// A stream, or a consumer of one.
struct Thing {
    name: String,
    stream: String,
    consumer: Option<String>,
    wanted: Value,
}

#[derive(Deserialize)]
struct Info {
    config: Value,
    #[serde(default)]
    num_waiting: u64,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    delivered: Place,
    #[serde(default)]
    state: State,
}

#[derive(Default, Deserialize)]
struct Place {
    consumer_seq: u64,
    stream_seq: u64,
}

#[derive(Default, Deserialize)]
struct State {
    messages: u64,
}

impl Thing {
    fn stream(config: Config) -> Self {
        Self {
            name: format!("stream {}", config.name),
            wanted: json!(config),
            stream: config.name,
            consumer: None,
        }
    }

    fn consumer(stream: &str, config: pull::Config) -> Self {
        let consumer = config.durable_name.clone().unwrap_or_default();
        Self {
            name: format!("consumer {stream}/{consumer}"),
            wanted: json!(config.into_consumer_config()),
            stream: stream.to_owned(),
            consumer: Some(consumer),
        }
    }

    async fn provide(&self, client: &Client, mode: Mode) -> Result<Report, ProvisionError> {
        let failed = |error: JetStreamError| self.failed(in_words(&error));
        let mut done = Vec::new();
        for _ in 0..LOOKS {
            let Some(info) = self.info(client).await.map_err(failed)? else {
                if mode == Mode::Check {
                    return Ok(self.report(ProvisionOutcome::Missing));
                }
                self.may_be_made(client).await?;
                match self.change(client, "CREATE", &self.wanted).await {
                    Ok(()) => {
                        debug!(name = %self.name, "created");
                        return Ok(self.report(ProvisionOutcome::Created));
                    }
                    Err(error) if is_taken(&error) => continue,
                    Err(error) => return Err(failed(error)),
                }
            };
            let mut found = self.compare(&info.config);
            if found.refusals.is_empty() {
                let early = self.too_early(client, &info, &found).await;
                found.refusals.extend(early.map_err(failed)?);
            }
            let outcome = match (found.refusals.is_empty(), found.changes.is_empty(), mode) {
                (false, ..) => ProvisionOutcome::Differs {
                    differences: found.refusals,
                },
                (true, true, _) if done.is_empty() => ProvisionOutcome::AsWanted,
                (true, true, _) => ProvisionOutcome::Updated { changes: done },
                (true, false, Mode::Check) => ProvisionOutcome::Outdated {
                    changes: found.changes,
                },
                (true, false, Mode::Apply) => {
                    match self.update(client, info.config, &found).await {
                        Ok(()) => {
                            info!(name = %self.name, changes = %found.changes.join("; "), "updated");
                            done = found.changes;
                            continue;
                        }
                        Err(error) if error.is_transient() => return Err(failed(error)),
                        Err(error) => ProvisionOutcome::Differs {
                            differences: vec![format!(
                                "{}: the server refuses it: {}",
                                found.changes.join(", "),
                                in_words(&error)
                            )],
                        },
                    }
                }
            };
            return Ok(Report {
                kept: found.kept,
                ..self.report(outcome)
            });
        }
        let reason = "is still not as needed after several tries: the nats-server does not keep it, as one that is too old, or \
                      something else changes it at the same time";
        if done.is_empty() {
            return Err(self.failed(format!("it {reason}; run `spotreel provision` again")));
        }
        // The other things go on.
        let differences = done.iter().map(|change| format!("{change} {reason}"));
        Ok(self.report(ProvisionOutcome::Differs {
            differences: differences.collect(),
        }))
    }

    fn report(&self, outcome: ProvisionOutcome) -> Report {
        Report::new(self.name.clone(), outcome)
    }

    fn failed(&self, reason: String) -> ProvisionError {
        let name = self.name.clone();
        ProvisionError { name, reason }
    }

    /// `None`: it does not exist.
    async fn info(&self, client: &Client) -> Result<Option<Info>, JetStreamError> {
        let asked = match &self.consumer {
            None => stream_info(client, &self.stream).await,
            Some(consumer) => consumer_info(client, &self.stream, consumer).await,
        };
        match asked {
            Ok(info) => Ok(Some(info)),
            // 10059: no such stream.
            Err(JetStreamError::NotFound | JetStreamError::Refused { code: 10_059, .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn compare(&self, there: &Value) -> Comparison {
        match self.consumer {
            None => compare::stream(&self.wanted, there),
            Some(_) => compare::consumer(&self.wanted, there, self.counts_work()),
        }
    }

    /// Whether trigger and the workers take what the consumer delivers for work.
    fn counts_work(&self) -> bool {
        let filter = self.wanted["filter_subject"].as_str().unwrap_or_default();
        filter.starts_with("spotreel.log.*.queued.")
            && self.consumer.as_deref() != Some(CONSUMER_DEADLINES)
    }

    async fn may_be_made(&self, client: &Client) -> Result<(), ProvisionError> {
        let swept =
            async || !self.counts_work() || is_swept(client).await.is_ok_and(|is_swept| is_swept);
        if self.consumer.is_some() && !swept().await {
            let reason = "finished tasks still hold entries in the log, and a new consumer would count them as work: \
                          start monitor, wait until its sweeper is done, then provision again";
            return Err(self.failed(reason.into()));
        }
        Ok(())
    }

    /// Why a change that is harmless by itself must not be made now.
    async fn too_early(
        &self,
        client: &Client,
        info: &Info,
        found: &Comparison,
    ) -> Result<Vec<String>, JetStreamError> {
        let mut reasons = Vec::new();
        for filter in &found.new_filters {
            let first = next_message(client, &self.stream, filter, 1).await?;
            if first.is_some_and(|first| first <= info.delivered.stream_seq) {
                reasons.push(format!(
                    "filter {filter} is missing, and messages that it matches are older than the place that the consumer has \
                     reached, so they would never be delivered: the consumer has to be made anew (docs/operations.md, \
                     \"Differences that provision refuses\")"
                ));
            }
        }
        let was_one_at_a_time = info.config["max_ack_pending"] == 1;
        if was_one_at_a_time
            && found.update.contains_key("max_ack_pending")
            && self.is_read(client).await?
        {
            reasons.push(
                "max_ack_pending is 1, this version needs more, but a program reads the consumer: if it is of an older \
                 version, the order of its events rests on that 1. Stop it, then run `spotreel provision` again; its events wait"
                    .into(),
            );
        }
        Ok(reasons)
    }

    /// Whether a program pulls from the consumer.
    async fn is_read(&self, client: &Client) -> Result<bool, JetStreamError> {
        let (mut last, mut unread) = (None, 0);
        for _ in 0..MAX_LOOKS {
            let Some(info) = self.info(client).await? else {
                return Ok(false);
            };
            let place = Some(info.delivered.consumer_seq);
            unread = match info.num_waiting == 0 && place == last {
                true => unread + 1,
                false => 0,
            };
            if unread == UNREAD_LOOKS {
                return Ok(false);
            }
            last = place;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(true)
    }

    async fn update(
        &self,
        client: &Client,
        mut config: Value,
        found: &Comparison,
    ) -> Result<(), JetStreamError> {
        if let Some(fields) = config.as_object_mut() {
            fields.extend(found.update.clone());
            fields.retain(|_, value| !value.is_null());
        }
        self.change(client, "UPDATE", &config).await
    }

    async fn change(
        &self,
        client: &Client,
        verb: &str,
        config: &Value,
    ) -> Result<(), JetStreamError> {
        #[derive(Deserialize)]
        struct Done {}
        let (subject, body) = match &self.consumer {
            None => (
                format!("$JS.API.STREAM.{verb}.{}", self.stream),
                config.clone(),
            ),
            Some(consumer) => (
                format!("$JS.API.CONSUMER.CREATE.{}.{consumer}", self.stream),
                json!({
                    "stream_name": self.stream,
                    "config": config,
                    "action": verb.to_lowercase(),
                }),
            ),
        };
        let (headers, body) = (HeaderMap::new(), body.to_string().into());
        let done = request::<Done>(client, &subject, headers, body, REQUEST_TIMEOUT).await;
        done.map(|_| ())
    }
}

/// The server's limits stand for a full stream elsewhere; here nothing is written into one.
fn in_words(error: &JetStreamError) -> String {
    match error {
        JetStreamError::Full => "insufficient storage for JetStream".into(),
        other => spotreel_domain::chain(other).to_string(),
    }
}

/// Whether somebody else has made it since: 10058 a stream, 10148 and 10105 a consumer, with other values.
fn is_taken(error: &JetStreamError) -> bool {
    matches!(
        error,
        JetStreamError::Refused {
            code: 10_058 | 10_148 | 10_105,
            ..
        }
    )
}

/// Whether every entry in the log belongs to a task that runs: in an empty log, or after the sweeper has seen all of it.
async fn is_swept(client: &Client) -> Result<bool, JetStreamError> {
    let tasks: Info = stream_info(client, TASKS).await?;
    if tasks.state.messages == 0 {
        return Ok(true);
    }
    let sweeper: Info = consumer_info(client, TASKS, CONSUMER_SWEEPER).await?;
    Ok(sweeper.num_pending == 0 && sweeper.num_ack_pending == 0)
}
