//! Time limits for a worker without work, and for a worker without a connection to NATS.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use spotreel_bus::names;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::machine::leave::{By, Leave};

/// How often the connection is looked at; the limits are minutes.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdleSection {
    pub exit_after: IdleLimit,
    pub orphan_after: IdleLimit,
}

/// `off`, `auto` or a duration. Zero is the duration zero: at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleLimit {
    Off,
    /// As set for a machine of a cloud, which costs money; elsewhere off.
    Auto,
    After(Duration),
}

impl IdleLimit {
    pub fn effective(self, is_cloud: bool, auto: Duration) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Auto => is_cloud.then_some(auto),
            Self::After(limit) => Some(limit),
        }
    }
}

impl fmt::Display for IdleLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::After(limit) => write!(f, "{}ms", limit.as_millis()),
        }
    }
}

impl Serialize for IdleLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IdleLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// On a command line `0` and `false` are no texts.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(0) => Ok(Self::After(Duration::ZERO)),
            Written::Number(number) => Err(D::Error::custom(format!(
                "{number} has no unit: write \"{number}s\""
            ))),
            Written::Text(text) => match text.as_str() {
                "off" => Ok(Self::Off),
                "auto" => Ok(Self::Auto),
                text => humantime_serde::re::humantime::parse_duration(text)
                    .map(Self::After)
                    .map_err(|error| {
                        D::Error::custom(format!(
                            "{text:?} is neither off, auto nor a time: {error}"
                        ))
                    }),
            },
        }
    }
}

/// When fleet last said that this machine stays although it has no work. Whether a machine is wanted is fleet's to say;
/// a worker goes by itself only once fleet is silent.
#[derive(Clone, Default)]
pub struct Stay(Arc<Mutex<Option<Instant>>>);

impl Stay {
    pub fn told_at(&self) -> Option<Instant> {
        *self.0.lock()
    }

    fn told(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Listens until the program ends. What is missed comes again soon.
    pub async fn listen(self, client: Client, instance: String, until: CancellationToken) {
        let subject = names::worker_stay(&instance);
        let mut words = match client.subscribe(subject.clone()).await {
            Ok(words) => words,
            Err(error) => {
                return tracing::error!(error = %spotreel_domain::chain(&error), subject, "subscribing to stay messages failed");
            }
        };
        while let Some(Some(_)) = until.run_until_cancelled(words.next()).await {
            self.told();
        }
    }
}

/// Without the server nothing can be taken and nothing handed back: the machine is only a cost then.
pub async fn watch_server(
    client: Client,
    limit: Option<Duration>,
    leave: Leave,
    until: CancellationToken,
) {
    let Some(limit) = limit else { return };
    let mut away_since = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(limit)) => {}
            () = until.cancelled() => return,
        }
        away_since = match client.connection_state() {
            State::Connected => None,
            _ => away_since.or_else(|| Some(Instant::now())),
        };
        if away_since.is_some_and(|since| since.elapsed() >= limit) {
            return leave.order(By::AtOnce, "the NATS server cannot be reached");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_word_or_a_time_with_a_unit() {
        let read = |text: &str| serde_json::from_str::<IdleLimit>(text).map_err(|e| e.to_string());
        assert_eq!(read("\"off\""), Ok(IdleLimit::Off));
        assert_eq!(read("\"auto\""), Ok(IdleLimit::Auto));
        assert_eq!(read("0"), Ok(IdleLimit::After(Duration::ZERO)));
        assert_eq!(read("\"0s\""), Ok(IdleLimit::After(Duration::ZERO)));
        assert_eq!(
            read("\"5m\""),
            Ok(IdleLimit::After(Duration::from_secs(300)))
        );
        assert!(read("5").unwrap_err().contains("no unit"));
        assert!(read("\"never\"").unwrap_err().contains("neither"));
        let written =
            serde_json::to_string(&IdleLimit::After(Duration::from_millis(1500))).unwrap();
        assert_eq!(
            read(&written),
            Ok(IdleLimit::After(Duration::from_millis(1500)))
        );
    }

    #[test]
    fn only_a_cloud_machine_is_left_by_itself() {
        let auto = Duration::from_secs(300);
        assert_eq!(IdleLimit::Auto.effective(false, auto), None);
        assert_eq!(IdleLimit::Auto.effective(true, auto), Some(auto));
        assert_eq!(IdleLimit::Off.effective(true, auto), None);
    }
}
