//! A server whose task log holds so many queued tasks.

use std::time::Instant;

use async_nats::Client;
use futures::stream::StreamExt;
use spotreel_api::TaskRequest;
use spotreel_bootstrap::ambient;
use spotreel_bus::TaskLog;
use spotreel_bus::log::{Append, MAX_BATCH};
use spotreel_domain::{Task, TaskId};

use super::server::{Server, Sync};

/// Batches on their way at once: one is made while others are stored.
const AT_ONCE: usize = 4;

pub struct Filled {
    pub server: Server,
    pub tasks: u64,
    /// Seconds that filling took.
    pub took: u64,
}

impl Filled {
    pub async fn with(tasks: u64) -> Self {
        let server = Server::provisioned(Sync::Always, None).await;
        let began = Instant::now();
        fill(&server.client("provision").await, tasks).await;
        Self {
            server,
            tasks,
            took: began.elapsed().as_secs(),
        }
    }
}

/// The id of one of the tasks.
pub fn id(number: u64) -> String {
    format!("q{number}")
}

async fn fill(client: &Client, tasks: u64) {
    let log = TaskLog::open(client).await;
    let request = TaskRequest {
        model: "ti2v-5B".into(),
        prompt: "a red fox in the snow".into(),
        ..TaskRequest::default()
    };
    let valid = request.validate(ambient::now()).expect("it is valid");
    let most = u64::try_from(MAX_BATCH).expect("a thousand");
    let batches = (0..tasks.div_ceil(most)).map(|number| {
        let (log, valid) = (log.clone(), valid.clone());
        let ids = number * most..(number * most + most).min(tasks);
        tokio::spawn(async move {
            let now = ambient::now();
            let appends: Vec<_> = ids
                .map(|number| {
                    let id = TaskId::parse(&id(number)).expect("it is an id");
                    let (spec, hash) = (valid.spec.clone(), valid.content_hash.clone());
                    let step = Task::submit(id, spec, hash, now);
                    Append::new(step, 0, ambient::uuid_v4())
                })
                .collect();
            let stored = log.append_batch(&appends, ambient::uuid_v4()).await;
            stored.expect("NATS stores");
        })
    });
    let mut stored = futures::stream::iter(batches).buffer_unordered(AT_ONCE);
    while let Some(done) = stored.next().await {
        done.expect("a batch was stored");
    }
}
