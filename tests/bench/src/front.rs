//! Intake alone, as a client meets it: a real program on a real server, whose limits are out of the way.

use async_nats::{Client, Request};
use bytes::Bytes;
use spotreel_bus::names::SUBMIT;
use spotreel_tests::harness::program::ProgramSpec;
use spotreel_tests::harness::{CloudProgram, Program};
use tempfile::TempDir;

use super::server::{Server, Sync};
use super::tap::PATIENCE;

/// More than can come: what is measured is how fast it goes, not how much is let in.
const NO_LIMIT: &str = "1000000000";

pub struct Front {
    /// In the clients' account.
    pub client: Client,
    /// In the services' account, with all rights.
    pub services: Client,
    pub intake: Program,
    pub server: Server,
    _cloud: CloudProgram,
    _dir: TempDir,
}

impl Front {
    pub async fn open(sync: Sync) -> Self {
        Self::over(Server::provisioned(sync, None).await).await
    }

    /// In front of a server that is up, with whatever lies in its log.
    pub async fn over(server: Server) -> Self {
        let dir = TempDir::with_prefix("spotreel-bench-").expect("a directory can be made");
        // Intake wants a store for pictures; none of these tasks has one.
        let cloud = CloudProgram::start().await;
        let intake = Program::start(spec(&server, &cloud, &dir)).await;
        Self {
            client: server.client("client").await,
            services: server.client("provision").await,
            intake,
            server,
            _cloud: cloud,
            _dir: dir,
        }
    }

    /// Ends intake; the server stays up.
    pub fn close(self) -> Server {
        self.server
    }

    /// One call that must be accepted as a whole.
    pub async fn submit(&self, call: &Call) {
        submit(&self.client, call).await;
    }
}

pub fn spec(server: &Server, cloud: &CloudProgram, dir: &TempDir) -> ProgramSpec {
    server
        .spec("intake", dir.path())
        .envs(cloud.access.variables())
        .set("limits.tasks_per_second", NO_LIMIT)
        .set("limits.burst", NO_LIMIT)
        .set("limits.max_queued", NO_LIMIT)
}

/// What is sent, made before the clock runs, and how its answer begins.
#[derive(Clone, Debug)]
pub struct Call {
    pub body: Bytes,
    pub tasks: usize,
    answer: String,
}

/// Whether a client names its tasks. Intake looks up a name before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    ByIntake,
    ByClient,
}

impl Call {
    /// One task, not in a list.
    pub fn one(named: Named) -> Self {
        Self {
            body: task(named, 0).into(),
            tasks: 1,
            answer: "{\"id\":".to_owned(),
        }
    }

    pub fn list(tasks: usize, named: Named) -> Self {
        let list: Vec<_> = (0..tasks).map(|number| task(named, number)).collect();
        Self {
            body: format!("[{}]", list.join(",")).into(),
            tasks,
            answer: format!("{{\"accepted\":{tasks},\"refused\":0,"),
        }
    }

    /// The whole of it was accepted.
    pub fn is_answered_by(&self, answer: &[u8]) -> bool {
        answer.starts_with(self.answer.as_bytes())
    }
}

/// A task as people write them: a sentence or two, half a kilobyte in the log.
pub fn task(named: Named, number: usize) -> String {
    let id = match named {
        Named::ByIntake => String::new(),
        Named::ByClient => format!(
            "\"id\":\"{}\",",
            spotreel_tests::harness::tasks::name("bench")
        ),
    };
    format!(
        "{{{id}\"model\":\"t2v-A14B\",\"prompt\":\"{PROMPT} Take {number}.\",\"size\":\"832x480\",\"frames\":81,\"seed\":{number}}}"
    )
}

pub const PROMPT: &str = "A red fox trots through fresh snow between birches at dawn, its breath visible in the cold air, \
     the camera follows low and slowly from the side, soft light, shallow depth of field.";

pub async fn submit(client: &Client, call: &Call) {
    let request = Request::new()
        .payload(call.body.clone())
        .timeout(Some(PATIENCE));
    let answer = client.send_request(SUBMIT, request).await;
    let answer = answer.expect("intake answers").payload;
    assert!(
        call.is_answered_by(&answer),
        "intake answers {}",
        String::from_utf8_lossy(&answer[..answer.len().min(400)])
    );
}
