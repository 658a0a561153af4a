//! One way to connect, with the settings that keep a connection honest.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::Instant;

/// A dead peer shows after 2.5 pings: 25 s, well inside a lease of 60 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest silence that a request to the server is given.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that wait in a service for one reader: four times the largest page that is read at once. What comes beyond it is
/// dropped, and whoever sent it asks again.
const WAITING: usize = 4_096;

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// One URL or several, separated by commas. It may name a user and a password, which never print.
    #[serde(serialize_with = "serialize_url")]
    pub url: String,
    pub user: Option<String>,
    #[serde(skip_serializing)]
    pub password: Option<String>,
    /// Path of a `.creds` file; it goes before user and password.
    pub creds: Option<String>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            user: None,
            password: None,
            creds: None,
        }
    }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("url", &without_secrets(&self.url))
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

fn serialize_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&without_secrets(url))
}

/// The URL as it may be printed. Everything before the last `@` could be a password or a token; of several URLs with
/// passwords only the last one's host is left, because a password may hold commas.
fn without_secrets(url: &str) -> String {
    let Some((secret, host)) = url.rsplit_once('@') else {
        return url.to_owned();
    };
    match secret.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_lowercase()) => {
            format!("{scheme}://***@{host}")
        }
        _ => format!("***@{host}"),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("nats.url {url:?} is not a server's address, such as nats://127.0.0.1:4222")]
    Url { url: String, source: std::io::Error },
    #[error("the credentials file {path:?} cannot be used")]
    Creds {
        path: String,
        source: std::io::Error,
    },
    #[error("no NATS server answers at {url}")]
    Refused {
        url: String,
        source: async_nats::ConnectError,
    },
}

impl NatsConfig {
    /// Whether [`connect`] can use the URL.
    pub fn check(&self) -> Result<(), ConnectError> {
        self.servers().map(drop)
    }

    fn servers(&self) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
        let each = self.url.split(',').map(|one| one.trim().parse());
        each.collect::<Result<_, _>>()
            .map_err(|source| ConnectError::Url {
                url: without_secrets(&self.url),
                source,
            })
    }
}

/// Connects as `program`. Each program has an inbox of its own, so that no other can read the answers meant for it;
/// a server that is not there yet is waited for when `patient`.
pub async fn connect(
    config: &NatsConfig,
    program: &str,
    patient: bool,
) -> Result<Client, ConnectError> {
    let log = |refusal: String| tracing::error!(refusal, "NATS permission denied");
    connect_with(config, program, patient, log).await
}

/// As [`connect`]. What the server refuses, a subject above all, is handed to `refused`: whoever published there only sees
/// that no answer comes.
pub async fn connect_with(
    config: &NatsConfig,
    program: &str,
    patient: bool,
    refused: impl Fn(String) + Clone + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let servers = config.servers()?;
    let mut options = ConnectOptions::new()
        .name(format!("spotreel-{program}"))
        .custom_inbox_prefix(format!("_INBOX_{program}"))
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .event_callback(move |event| report(event, refused.clone()));
    options = match program {
        // Hears all events of a busy system, each a few hundred bytes.
        "client" => options.custom_inbox_prefix("_INBOX"),
        _ => options.subscription_capacity(WAITING),
    };
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(path) = &config.creds {
        let text = std::fs::read_to_string(path).map_err(|source| ConnectError::Creds {
            path: path.clone(),
            source,
        })?;
        options = options
            .credentials(&text)
            .map_err(|source| ConnectError::Creds {
                path: path.clone(),
                source,
            })?;
    }
    if patient {
        options = options.retry_on_initial_connect();
    }
    options
        .connect(servers)
        .await
        .map_err(|source| ConnectError::Refused {
            url: without_secrets(&config.url),
            source,
        })
}

/// How long this connection to the server has lasted, as far as somebody has looked: whoever has just come back does not
/// know yet who else has.
pub struct Uptime {
    client: Client,
    seen: Mutex<(u64, Instant)>,
}

impl Uptime {
    pub fn new(client: Client) -> Self {
        let seen = (
            client.statistics().connects.load(Ordering::Relaxed),
            Instant::now(),
        );
        Self {
            client,
            seen: Mutex::new(seen),
        }
    }

    /// Time since the first look that found the present connection: never longer than the connection has lasted.
    pub fn look(&self) -> Duration {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        let mut seen = self.seen.lock();
        if seen.0 != connects {
            *seen = (connects, Instant::now());
        }
        seen.1.elapsed()
    }
}

async fn report(event: Event, refused: impl Fn(String)) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("NATS connection lost; reconnecting"),
        Event::ServerError(error) => refused(error.to_string()),
        Event::SlowConsumer(sid) => {
            tracing::warn!(sid, "messages dropped: this program reads too slowly");
        }
        other => tracing::debug!(event = %other, "NATS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_in_the_url_never_prints() {
        for url in [
            "nats://user:sEcret@127.0.0.1:1",
            "nats://sEcret@127.0.0.1:1",
            "nats://user:sEcret@a,nats://user:sEcret@127.0.0.1:1",
            "nats://user:sEcret,sEcret@127.0.0.1:1",
            "nats://user:sEcret/@x@127.0.0.1:1",
            "user:sEcret@127.0.0.1:port",
        ] {
            let config = NatsConfig {
                url: url.into(),
                ..NatsConfig::default()
            };
            let error = connect(&config, "client", false).await.unwrap_err();
            let written = serde_json::to_string(&config).unwrap();
            let printed = format!("{config:?} {written} {error} {error:?}");
            assert!(!printed.contains("sEcret"), "{printed}");
            assert!(printed.contains("127.0.0.1"), "{printed}");
        }
        let plain = "nats://a:4222,nats://b:4222";
        assert_eq!(without_secrets(plain), plain);
    }
}
