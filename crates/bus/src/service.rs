//! A program's requests: an endpoint for each verb, each request on a task of its own, in bounded number and memory.
//!
//! What every request goes through is here and nowhere else: admission, the caller's trace, parsing, the answer also of a
//! handler that panics, the measurement. A program lists its verbs and their handlers.

use std::sync::Arc;
use std::time::Instant;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{self, ServiceExt};
use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::reply::{guarded, json, refuse};
use crate::room::RoomShare;
use crate::{Reply, Room, names, trace};

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("the endpoint {subject} cannot be offered")]
    Endpoint {
        subject: &'static str,
        source: async_nats::Error,
    },
    #[error("the endpoint {0} ended before the program was told to stop")]
    Ended(&'static str),
}

/// What a client asks.
#[derive(Clone, Debug)]
pub struct Request {
    pub payload: Bytes,
    /// The header of that name.
    pub content_type: Option<String>,
}

impl Request {
    /// An empty payload is the same as `{}`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let payload = match self.payload.trim_ascii() {
            [] => b"{}",
            payload => payload,
        };
        serde_json::from_slice(payload)
            .map_err(|error| refuse(ErrorCode::Invalid, format!("the request: {error}")))
    }
}

type Handler = Box<dyn Fn(Request) -> BoxFuture<'static, Result<Vec<u8>, ApiError>> + Send + Sync>;
type PaceCheck = Box<dyn Fn(usize) -> Result<(), ApiError> + Send + Sync>;

/// The verbs of a program, not offered yet. Handlers share an `S`.
pub struct Service<S> {
    name: &'static str,
    description: &'static str,
    state: Arc<S>,
    room: Room,
    pace: Option<PaceCheck>,
    verbs: Vec<Verb>,
}

struct Verb {
    name: &'static str,
    subject: &'static str,
    handler: Handler,
    seconds: metrics::Histogram,
}

impl<S: Send + Sync + 'static> Service<S> {
    /// `name` is the program's. The requests at work share `room`.
    pub fn new(name: &'static str, description: &'static str, state: &Arc<S>, room: Room) -> Self {
        metrics::describe_histogram!(
            seconds(name),
            metrics::Unit::Seconds,
            "Time to answer a request over NATS, by verb"
        );
        Self {
            name,
            description,
            state: Arc::clone(state),
            room,
            pace: None,
            verbs: Vec::new(),
        }
    }

    /// Refuses a request whose number of bytes `pace` refuses, before anything of it is read.
    #[must_use]
    pub fn paced(
        mut self,
        pace: impl Fn(usize) -> Result<(), ApiError> + Send + Sync + 'static,
    ) -> Self {
        self.pace = Some(Box::new(pace));
        self
    }

    /// A verb that takes one JSON object and answers with another.
    #[must_use]
    pub fn verb<Q, A, F>(
        self,
        name: &'static str,
        subject: &'static str,
        handler: impl Fn(Arc<S>, Q) -> F + Copy + Send + Sync + 'static,
    ) -> Self
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + 'static,
        F: Future<Output = Result<A, ApiError>> + Send + 'static,
    {
        self.raw(name, subject, move |state, request| async move {
            let answered = handler(state, request.parse()?).await?;
            Ok(json(&answered))
        })
    }

    /// A verb that reads the request and writes the answer by itself.
    #[must_use]
    pub fn raw<F>(
        mut self,
        name: &'static str,
        subject: &'static str,
        handler: impl Fn(Arc<S>, Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<u8>, ApiError>> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        self.verbs.push(Verb {
            name,
            subject,
            handler: Box::new(move |request| handler(Arc::clone(&state), request).boxed()),
            seconds: metrics::histogram!(seconds(self.name), "verb" => name),
        });
        self
    }

    /// Subscribes to every verb. `nats micro` finds the service from now on.
    pub async fn offer(self, client: &Client) -> Result<Offered, ServiceError> {
        let failed = |subject| move |source| ServiceError::Endpoint { subject, source };
        let program = format!("spotreel-{}", self.name);
        let service = client
            .service_builder()
            .description(self.description)
            .start(program.clone(), env!("CARGO_PKG_VERSION"))
            .await
            .map_err(failed("$SRV"))?;
        let mut endpoints = Vec::new();
        for verb in self.verbs {
            debug_assert_eq!(names::program_of(verb.subject), program, "{}", verb.subject);
            let builder = service.endpoint_builder().name(verb.name);
            let endpoint = builder.add(verb.subject).await;
            let endpoint = endpoint.map_err(failed(verb.subject))?;
            endpoints.push((Arc::new(verb), endpoint));
        }
        Ok(Offered {
            client: client.clone(),
            _service: service,
            endpoints,
            room: self.room,
            pace: self.pace,
        })
    }
}

fn seconds(program: &str) -> String {
    format!("spotreel_{program}_request_seconds")
}

/// Subscribed verbs, whose requests wait until [`Offered::answer`] runs.
pub struct Offered {
    client: Client,
    /// Answers `nats micro` while it is held.
    _service: service::Service,
    endpoints: Vec<(Arc<Verb>, Endpoint)>,
    room: Room,
    pace: Option<PaceCheck>,
}

impl Offered {
    /// Answers by `tasks` until told to stop. What has arrived by then is answered too; what comes later goes to another
    /// program of the same name.
    pub async fn answer(
        mut self,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<(), ServiceError> {
        let endpoints = std::mem::take(&mut self.endpoints);
        let listening = endpoints
            .into_iter()
            .map(|(verb, endpoint)| self.listen(verb, endpoint, stopping, tasks));
        try_join_all(listening).await.map(drop)
    }

    async fn listen(
        &self,
        verb: Arc<Verb>,
        mut endpoint: Endpoint,
        stopping: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<(), ServiceError> {
        while let Some(next) = stopping.run_until_cancelled(endpoint.next()).await {
            let request = next.ok_or(ServiceError::Ended(verb.subject))?;
            self.hand_over(&verb, request, tasks).await;
        }
        while let Some(Some(request)) = endpoint.next().now_or_never() {
            self.hand_over(&verb, request, tasks).await;
        }
        // Fails where the connection is closed for good, which ends the subscription too.
        let _ = endpoint.stop().await;
        Ok(())
    }

    async fn hand_over(&self, verb: &Arc<Verb>, request: service::Request, tasks: &TaskTracker) {
        let reply_to = request.message.reply.as_deref().unwrap_or_default();
        if !names::is_inbox(reply_to) {
            tracing::warn!(
                verb = verb.name,
                reply_to,
                "request dropped: its reply subject is not an inbox"
            );
            return;
        }
        // All of it, for headers may be as long as the payload.
        match self.admit(request.message.length) {
            Ok(share) => {
                let (client, verb) = (self.client.clone(), Arc::clone(verb));
                tasks.spawn(async move {
                    let _place = share.enter().await;
                    handle(&client, &verb, &request).await;
                });
            }
            Err(refused) => respond(&self.client, verb, &request, Err(refused)).await,
        }
    }

    fn admit(&self, bytes: usize) -> Result<RoomShare, ApiError> {
        let share = self.room.admit(bytes)?;
        self.pace.as_ref().map_or(Ok(()), |pace| pace(bytes))?;
        Ok(share)
    }
}

async fn handle(client: &Client, verb: &Verb, request: &service::Request) {
    let began = Instant::now();
    let span = tracing::info_span!("request", verb = verb.name);
    let headers = request.message.headers.as_ref();
    if let Some(headers) = headers {
        trace::adopt(&span, headers);
    }
    let asked = Request {
        payload: request.message.payload.clone(),
        content_type: headers
            .and_then(|headers| headers.get("Content-Type"))
            .map(|kind| kind.as_str().to_owned()),
    };
    // In a block: the handler may panic before its first await.
    let answering = async { (verb.handler)(asked).await };
    let answered = guarded(answering).instrument(span).await;
    respond(client, verb, request, answered).await;
    verb.seconds.record(began.elapsed());
}

async fn respond(
    client: &Client,
    verb: &Verb,
    request: &service::Request,
    answered: Result<Vec<u8>, ApiError>,
) {
    let reply = Reply::new(answered, client.max_payload());
    let sent = request.respond_with_headers(Ok(reply.body.into()), reply.headers);
    if let Err(error) = sent.await {
        tracing::warn!(%error, verb = verb.name, "answer could not be sent");
    }
}
