//! The instance metadata service of one machine, version 2 only: without a token nobody is told anything.

mod documents;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock;

const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
/// Six hours, as AWS has it.
const LONGEST_TTL_S: u64 = 21_600;
/// Tokens that are valid at a time; a machine needs one a process.
const MOST_TOKENS: usize = 1024;

/// What the service tells about its instance.
#[derive(Clone, Debug, Default)]
pub struct ImdsFacts {
    pub instance_id: String,
    pub instance_type: String,
    pub region: String,
    pub zone: String,
    pub zone_id: String,
    pub image_id: String,
    pub account_id: String,
    /// `spot` or `on-demand`.
    pub lifecycle: String,
    pub tags: BTreeMap<String, String>,
    pub private_ip: String,
    pub pending_time: Timestamp,
    /// Access key and secret of the machine's role; none: it has no role.
    pub keys: Option<(String, String)>,
}

/// A running service. Stops when it is dropped.
#[derive(Debug)]
pub struct Imds {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    truth: Mutex<Truth>,
    tokens: Mutex<HashMap<String, Instant>>,
}

/// All that can be asked for. Times are those of a clock on the wall, since machines live there.
#[derive(Debug)]
struct Truth {
    facts: ImdsFacts,
    instance_action: Option<(String, Timestamp)>,
    rebalance: Option<Timestamp>,
}

impl Imds {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start(facts: ImdsFacts) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            truth: Mutex::new(Truth {
                facts,
                instance_action: None,
                rebalance: None,
            }),
            tokens: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router).into_future();
            if let Some(Err(error)) = stopped.run_until_cancelled(serve).await {
                tracing::error!(%error, "metadata service failed");
            }
        });
        Ok(Self {
            address,
            shared,
            stop,
        })
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What will be done to the instance (`terminate`) and when; none: nothing that anybody knows of.
    pub fn set_instance_action(&self, action: Option<(String, Timestamp)>) {
        locked(&self.shared.truth).instance_action = action;
    }

    /// Since when the instance is at a higher risk.
    pub fn set_rebalance(&self, noticed: Option<Timestamp>) {
        locked(&self.shared.truth).rebalance = noticed;
    }

    pub fn set_tags(&self, tags: BTreeMap<String, String>) {
        locked(&self.shared.truth).facts.tags = tags;
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if uri.path() == TOKEN_PATH {
        return match method {
            Method::PUT => shared.new_token(&headers),
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if !shared.knows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let found = documents::find(&locked(&shared.truth), uri.path());
    found.map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        IntoResponse::into_response,
    )
}

impl Shared {
    fn new_token(&self, headers: &HeaderMap) -> Response {
        let ttl = headers
            .get(TOKEN_TTL)
            .and_then(|ttl| ttl.to_str().ok()?.parse().ok())
            .filter(|ttl| (1..=LONGEST_TTL_S).contains(ttl));
        let Some(ttl) = ttl else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let now = Instant::now();
        let token = format!("{}==", clock::unique());
        let mut tokens = locked(&self.tokens);
        tokens.retain(|_, until| *until > now);
        if tokens.len() >= MOST_TOKENS {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        tokens.insert(token.clone(), now + Duration::from_secs(ttl));
        ([(TOKEN_TTL, ttl.to_string())], token).into_response()
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let token = headers.get(TOKEN).and_then(|token| token.to_str().ok());
        let until = token.and_then(|token| locked(&self.tokens).get(token).copied());
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// A panic under the lock leaves whole values: each is written in one go.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests;
