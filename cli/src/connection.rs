//! Where to connect, and one call to a service.

mod settings;

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::{Client, ConnectErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{ApiError, ErrorCode, ErrorReply, ListPage, ListQuery, TaskRef, TaskView};
use spotreel_bus::connect::{ConnectError, connect_with};
use spotreel_bus::{NatsConfig, names};
use spotreel_domain::TaskId;
use tokio::sync::watch;

use crate::print::rule;

pub use settings::{ENDPOINTS, OPERATOR_PASSWORD, OPERATOR_USER, Settings, SettingsError, Who};

/// A call may carry a thousand tasks, each of which is stored before the answer comes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest beginning of an id that is looked up.
const SHORTEST_BEGINNING: usize = 4;
/// The same where the task is changed: shorter words could be names that people give.
const SHORTEST_TO_CHANGE: usize = 8;
/// Ids that are shown where a beginning fits several.
const MOST_CANDIDATES: u32 = 10;
/// Pages of the log that are searched for a beginning: half a million events.
const MOST_PAGES: usize = 25;
/// What only operators may publish to.
const ORDERS: &str = "spotreel.ops.";

/// The verbs, over one connection.
#[derive(Clone, Debug)]
pub struct Api {
    pub client: Client,
    /// The newest thing that the server has refused on this connection.
    refused: watch::Receiver<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(
        "no NATS server answers at {url}: start one with `spotreel dev --dir DIR`, or say where it is \
         with --nats-url, NATS_URL, --dir or --context"
    )]
    Nobody { url: String },
    #[error(
        "the NATS server at {url} refused {who}: check --nats-user and NATS_PASSWORD, or NATS_CREDS"
    )]
    Denied { url: String, who: String },
    #[error(transparent)]
    Connect(ConnectError),
}

/// Why a call brought no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(
        "no service answers {verb}: check that {} runs, and that this user belongs to the clients' account",
        names::program_of(verb)
    )]
    NoResponders { verb: String },
    #[error(
        "no answer to {verb} within {} s: it is safe to run the command again",
        CALL_TIMEOUT.as_secs()
    )]
    Timeout { verb: String },
    #[error("this user has no permission for {verb}{}", cure(verb))]
    Denied { verb: String },
    #[error("{}", refusal(.0))]
    Refused(ApiError),
    #[error(
        "the answer to {verb} cannot be decoded ({reason}): check that both programs have the same version"
    )]
    Garbled { verb: String, reason: String },
    #[error(
        "several ids start with {beginning}: give more characters{}",
        listed(ids)
    )]
    Ambiguous { beginning: String, ids: Vec<TaskId> },
    #[error(
        "the log is too long to search for an id that starts with {beginning}: give the complete id, as `spotreel list` prints it"
    )]
    NotSearched { beginning: String },
    #[error("{verb} could not be sent: {reason}")]
    Transport { verb: String, reason: String },
}

fn cure(verb: &str) -> &'static str {
    match verb.starts_with(ORDERS) {
        true => {
            ": only an operator gives orders; name one in SPOTREEL_OPERATOR_USER and \
             SPOTREEL_OPERATOR_PASSWORD, or with --nats-user"
        }
        false => ": connect as a user that may, with --nats-user and NATS_PASSWORD",
    }
}

impl CallError {
    /// Whether the same call may succeed soon.
    pub fn may_pass(&self) -> bool {
        use spotreel_api::ErrorCode::{RateLimited, Unavailable};
        match self {
            Self::Timeout { .. } | Self::Transport { .. } | Self::NoResponders { .. } => true,
            Self::Refused(error) => matches!(error.code, RateLimited | Unavailable),
            Self::Denied { .. }
            | Self::Garbled { .. }
            | Self::Ambiguous { .. }
            | Self::NotSearched { .. } => false,
        }
    }
}

/// One broken rule per line, or the message where no rule was broken.
pub fn refusal(error: &ApiError) -> String {
    let mut lines = match error.violations.as_slice() {
        [] => vec![error.message.clone()],
        broken => {
            let rules = broken.iter().map(|broken| format!("  {}", rule(broken)));
            ["refused:".to_owned()].into_iter().chain(rules).collect()
        }
    };
    if error.code == ErrorCode::NotFound && error.message.starts_with("there is no task") {
        lines.push(
            "  give the id as `spotreel list` prints it: all of it, or the beginning of one that spotreel gave"
                .to_owned(),
        );
    }
    if let Some(seconds) = error.retry_after_s {
        lines.push(format!("  try again in {seconds} s"));
    }
    lines.join("\n")
}

/// Connects with `config` as `program`, and says in a sentence why not.
pub async fn open(config: &NatsConfig, program: &str) -> Result<Client, OpenError> {
    open_with(config, program, |refusal: String| log(&refusal)).await
}

fn log(refusal: &str) {
    eprintln!("spotreel: the NATS server refuses: {refusal}");
}

async fn open_with(
    config: &NatsConfig,
    program: &str,
    refused: impl Fn(String) + Clone + Send + Sync + 'static,
) -> Result<Client, OpenError> {
    connect_with(config, program, false, refused)
        .await
        .map_err(|error| match error {
            ConnectError::Refused { url, source } => match source.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    let user = config.user.as_ref().map(|user| format!("user {user:?}"));
                    let who = user.unwrap_or_else(|| "a connection without a user".to_owned());
                    OpenError::Denied { url, who }
                }
                ConnectErrorKind::Io | ConnectErrorKind::TimedOut | ConnectErrorKind::Dns => {
                    OpenError::Nobody { url }
                }
                _ => OpenError::Connect(ConnectError::Refused { url, source }),
            },
            other => OpenError::Connect(other),
        })
}

impl Api {
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        Self::over(settings.nats()?).await
    }

    /// For orders.
    pub async fn open_as_operator(settings: &Settings) -> Result<Self, OpenError> {
        Self::over(settings.nats_as(Who::Operator)?).await
    }

    async fn over(config: NatsConfig) -> Result<Self, OpenError> {
        let (told, refused) = watch::channel(String::new());
        let told = Arc::new(told);
        let hear = move |refusal: String| match refusal.contains("for Publish to") {
            true => drop(told.send_replace(refusal)),
            false => log(&refusal),
        };
        Ok(Self {
            client: open_with(&config, "client", hear).await?,
            refused,
        })
    }

    /// Once the server has refused this subject, to which no answer comes then.
    async fn denied(&self, verb: &str) {
        let names_it = |refusal: &String| refusal.contains(&format!("{verb:?}"));
        if self.refused.clone().wait_for(names_it).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The most that one message may hold.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        verb: &str,
        question: &Q,
    ) -> Result<A, CallError> {
        let text = serde_json::to_vec(question).map_err(|error| CallError::Transport {
            verb: verb.to_owned(),
            reason: error.to_string(),
        })?;
        self.call_raw(verb, text).await
    }

    /// The answer to a verb that names one task: by its id, or by the beginning of one that was drawn for it.
    pub async fn task(&self, verb: &str, id: &str) -> Result<TaskView, CallError> {
        let named = |id: &str| TaskRef { id: id.to_owned() };
        let shortest = match verb {
            names::GET => SHORTEST_BEGINNING,
            _ => SHORTEST_TO_CHANGE,
        };
        match self.call(verb, &named(id)).await {
            Err(CallError::Refused(error))
                if error.code == ErrorCode::NotFound && is_beginning(id, shortest) =>
            {
                match self.beginning_with(id).await? {
                    Some(whole) => self.call(verb, &named(whole.as_str())).await,
                    None => Err(CallError::Refused(error)),
                }
            }
            answer => answer,
        }
    }

    /// The id itself, or the whole one that it is the beginning of. Whether there is such a task is for others to find out.
    pub async fn whole_id(&self, id: String) -> Result<String, CallError> {
        if !is_beginning(&id, SHORTEST_BEGINNING) {
            return Ok(id);
        }
        match self.task(names::GET, &id).await {
            Ok(task) => Ok(task.id.to_string()),
            Err(CallError::Refused(_)) => Ok(id),
            Err(error) => Err(error),
        }
    }

    /// The one id that begins so.
    async fn beginning_with(&self, beginning: &str) -> Result<Option<TaskId>, CallError> {
        let mut query = ListQuery {
            id_prefix: Some(beginning.to_owned()),
            limit: Some(MOST_CANDIDATES),
            ..ListQuery::default()
        };
        let mut ids: Vec<TaskId> = Vec::new();
        for _ in 0..MOST_PAGES {
            let page: ListPage = self.call(names::LIST, &query).await?;
            for task in page.tasks {
                if !ids.contains(&task.id) {
                    ids.push(task.id);
                }
            }
            query.cursor = page.next_cursor;
            if ids.len() > 1 || query.cursor.is_none() {
                let beginning = beginning.to_owned();
                return match ids.len() {
                    0 | 1 => Ok(ids.pop()),
                    _ => Err(CallError::Ambiguous { beginning, ids }),
                };
            }
        }
        Err(CallError::NotSearched {
            beginning: beginning.to_owned(),
        })
    }

    /// As [`Self::call`], with JSON that is written already.
    pub async fn call_raw<A: DeserializeOwned>(
        &self,
        verb: &str,
        json: Vec<u8>,
    ) -> Result<A, CallError> {
        let verb = verb.to_owned();
        let request = Request::new()
            .payload(json.into())
            .timeout(Some(CALL_TIMEOUT));
        let asked = self.client.send_request(verb.clone(), request);
        let answer = tokio::select! {
            answer = asked => answer,
            () = self.denied(&verb) => return Err(CallError::Denied { verb }),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => CallError::NoResponders { verb },
                    RequestErrorKind::TimedOut => CallError::Timeout { verb },
                    _ => CallError::Transport {
                        verb,
                        reason: error.to_string(),
                    },
                });
            }
        };
        parse(verb, &answer.payload)
    }
}

/// Whether the text may be the beginning of a UUID, which is what is drawn for a task without a name. Names that people
/// give are never guessed: `job-1` is not meant where there is only `job-10`.
fn is_beginning(text: &str, shortest: usize) -> bool {
    let is_uuids = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => matches!(c, '0'..='9' | 'a'..='f'),
    };
    (shortest..36).contains(&text.len()) && text.chars().enumerate().all(is_uuids)
}

fn listed(ids: &[TaskId]) -> String {
    ids.iter().map(|id| format!("\n  {id}")).collect()
}

fn parse<A: DeserializeOwned>(verb: String, payload: &[u8]) -> Result<A, CallError> {
    if let Ok(reply) = serde_json::from_slice::<ErrorReply>(payload) {
        return Err(CallError::Refused(reply.error));
    }
    serde_json::from_slice(payload).map_err(|error| CallError::Garbled {
        verb,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_printed_rule_by_rule() {
        let answer = br#"{"error":{"code":"invalid","message":"2 rules are broken",
            "violations":[{"field":"frames","rule":"4n+1","message":"frames is 4n+1"},
                          {"field":"model","rule":"known","message":"unknown"}]}}"#;
        let error = parse::<serde_json::Value>("spotreel.submit".into(), answer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "refused:\n  frames is 4n+1\n  model: unknown"
        );
        assert!(!error.may_pass());
    }

    #[test]
    fn only_ids_that_were_drawn_may_be_shortened() {
        for beginning in ["01a2", "01a208d1-", "01a208d1-2027-7f00-8000-0123456789a"] {
            assert!(is_beginning(beginning, 4), "{beginning}");
        }
        let whole = "01a208d1-2027-7f00-8000-0123456789ab";
        for other in ["01a", "job-1", "fox", "01a208d12", "01A2", "ä1a2", whole] {
            assert!(!is_beginning(other, 4), "{other}");
        }
    }
}
