//! Searches, against a real server: the rows follow the log, through restarts and over lost files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::Client;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::log::Append;
use spotreel_bus::names::SEARCH;
use spotreel_domain::batch::Status;
use spotreel_localcloud::TestCloud;
use spotreel_monitor::{DEFAULTS, Deps, MonitorConfig};
use spotreel_s3::{Keys, Store, StoreConfig};
use spotreel_test_kit::{
    Logs, Nats, Program, ask, command, context, failing, free_port, password, pool, spot_instance,
    stop, tasks, until,
};
use tempfile::TempDir;

const SOON: Duration = Duration::from_millis(50);

struct System {
    nats: Nats,
    hand: Logs,
    client: Client,
    store: Store,
    dir: TempDir,
    cloud: TestCloud,
}

impl System {
    async fn start() -> Self {
        let nats = Nats::for_services().await;
        let cloud = TestCloud::start().await;
        let at = StoreConfig {
            endpoint_url: Some(cloud.endpoint_url()),
            force_path_style: true,
            ..toml::from_str::<MonitorConfig>(DEFAULTS).unwrap().s3
        };
        let keys = Keys::new("local", "local-secret");
        Self {
            hand: Logs::of(&nats).await,
            client: nats.client("client").await,
            store: Store::connect_with_keys(&at, keys).await,
            nats,
            dir: TempDir::with_prefix("spotreel-test-").unwrap(),
            cloud,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("search.db")
    }

    async fn monitor(&self, path: &Path) -> Context {
        let mut config: MonitorConfig = toml::from_str(DEFAULTS).unwrap();
        config.search.path = Some(path.to_owned());
        config.search.every = SOON;
        config.search.removed_every = SOON;
        // Nothing but searches changes anything here.
        config.janitor.grace = Duration::from_secs(3_600);
        let ctx = context("monitor");
        let deps = Deps {
            nats: self.nats.client("monitor").await,
            store: self.store.clone(),
        };
        let started = spotreel_monitor::start(config, deps, ctx.clone());
        started.await.unwrap();
        ctx
    }

    /// Over the border, as clients ask.
    async fn search(&self, query: Value) -> Value {
        ask(&self.client, SEARCH, &query).await
    }

    /// Every task that is found, page after page, with its state.
    async fn all(&self) -> Vec<(String, String)> {
        let (mut all, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let page = self.search(json!({ "limit": 200, "cursor": cursor })).await;
            for task in page["tasks"].as_array().into_iter().flatten() {
                let text = |field: &str| task[field].as_str().unwrap().to_owned();
                all.push((text("id"), text("state")));
            }
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                return all;
            }
        }
    }

    /// The program itself, which can be killed.
    fn program(&self, log: &Path) -> Program {
        let port = free_port();
        let mut command = command(
            env!("CARGO_BIN_EXE_spotreel-monitor"),
            [
                ("nats.url", self.nats.url.clone()),
                ("nats.password", password("monitor")),
                ("s3.endpoint_url", self.cloud.endpoint_url()),
                ("s3.force_path_style", "true".to_owned()),
                ("http.listen", format!("127.0.0.1:{port}")),
                ("search.path", self.path().display().to_string()),
                ("search.every", "10ms".to_owned()),
            ],
        );
        command
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret");
        Program::start(command, log)
    }

    /// Sizes and times of the file and its write-ahead log.
    fn on_disk(&self) -> [Option<(u64, std::time::SystemTime)>; 2] {
        ["db", "db-wal"].map(|end| {
            let about = std::fs::metadata(self.path().with_extension(end)).ok()?;
            Some((about.len(), about.modified().ok()?))
        })
    }

    /// Waits until a search finds these.
    async fn finds(&self, query: Value, wanted: &[&str]) {
        let what = format!("{query} finds {wanted:?}");
        until(&what, async || {
            ids(&self.search(query.clone()).await) == wanted
        })
        .await;
    }
}

/// What is no page finds nothing that could be waited for.
fn ids(page: &Value) -> Vec<&str> {
    let tasks = page["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    let ids = tasks.iter().map(|task| task["id"].as_str().unwrap());
    match page["error"].is_null() {
        true => ids.collect(),
        false => vec!["refused"],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_rows_follow_tasks_and_batches() {
    let system = System::start().await;
    let hand = &system.hand;
    let mut request = tasks::request(spotreel_domain::Model::Ti2v5b);
    request.prompt = "雪中的狐狸".into();
    request.labels.insert("film".into(), "fox".into());
    let before = hand.submit_as("before", &request, |_| {}).await;
    let night = pool("night");
    let batch = hand.request(&night, 1).await;
    let ctx = system.monitor(&system.path()).await;
    system.finds(json!({}), &["before"]).await;
    until("monitor is ready", async || {
        failing(&ctx, "search").is_none()
    })
    .await;

    let after = hand.submit("after").await;
    system.finds(json!({}), &["after", "before"]).await;
    system
        .finds(json!({ "text": "狐狸", "label": "film=fox" }), &["before"])
        .await;
    hand.failed(&hand.started(&before).await).await;
    system
        .finds(json!({ "state": "failed" }), &["before"])
        .await;
    hand.cancelled(&after).await;
    system
        .finds(json!({ "state": "cancelled" }), &["after"])
        .await;

    // The instance is known once fleet has written it down.
    let by_batch = json!({ "batch": batch.id.to_string() });
    system.finds(by_batch.clone(), &[]).await;
    let instance = spot_instance("i-1", "g6.xlarge", before.task.at);
    hand.update(&night, |batch| {
        batch.status = Status::Running;
        batch.instances = vec![instance];
    })
    .await;
    system.finds(by_batch, &["before"]).await;
    let found = system.search(json!({ "text": "狐狸" })).await;
    assert_eq!(found["tasks"][0]["batch"], json!(batch.id));
    assert_eq!(found["tasks"][0]["error"]["message"], "no");
    assert_eq!(found["next_cursor"], Value::Null);
    assert!(found["as_of"].is_string());

    // A batch of which monitor sees only the end. Before it lies one that no version can decode.
    let context = async_nats::jetstream::new(hand.client.clone());
    let garbage = context.publish("spotreel.batchlog.lost.1.settled", "garbage".into());
    garbage.await.unwrap().await.unwrap();
    let other = spot_instance("i-2", "g6.xlarge", before.task.at);
    let ended = hand
        .request_as(&pool("day"), 1, |batch| {
            batch.status = Status::Settled;
            batch.instances = vec![other];
        })
        .await;
    let late = hand.submit("late").await;
    hand.next(&late, |task| task.started("w", "i-2", 0, late.task.at))
        .await;
    system
        .finds(json!({ "batch": ended.id.to_string() }), &["late"])
        .await;

    for (query, field) in [
        (json!({ "state": "done" }), "state"),
        (json!({ "text": "!" }), "text"),
        (json!({ "limit": 1_000 }), "limit"),
    ] {
        let refused = system.search(query).await;
        assert_eq!(refused["error"]["code"], "invalid");
        assert_eq!(refused["error"]["violations"][0]["field"], field);
        assert!(
            refused["error"]["message"]
                .as_str()
                .unwrap()
                .contains(field)
        );
    }
    stop(&ctx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_monitor_goes_on_where_its_file_is_and_each_has_its_own() {
    let system = System::start().await;
    let hand = &system.hand;
    hand.submit("one").await;
    let ctx = system.monitor(&system.path()).await;
    system.finds(json!({}), &["one"]).await;
    stop(&ctx).await;
    hand.submit("two").await;
    let ctx = system.monitor(&system.path()).await;
    system.finds(json!({}), &["two", "one"]).await;

    // A second one with the same file refuses to use it, and says what to do.
    let second = system.monitor(&system.path()).await;
    until("the file is refused", async || {
        failing(&second, "search").is_some_and(|reason| reason.contains("file of its own"))
    })
    .await;
    stop(&second).await;
    let second = system.monitor(&system.dir.path().join("other.db")).await;
    until("the second is ready", async || {
        failing(&second, "search").is_none()
    })
    .await;
    stop(&ctx).await;
    system.finds(json!({}), &["two", "one"]).await;
    stop(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_of_another_log_and_a_damaged_one_are_built_anew() {
    let first = System::start().await;
    first.hand.submit("theirs").await;
    let path = first.path();
    let ctx = first.monitor(&path).await;
    first.finds(json!({}), &["theirs"]).await;
    stop(&ctx).await;

    let system = System::start().await;
    system.hand.submit("ours").await;
    let ctx = system.monitor(&path).await;
    system.finds(json!({}), &["ours"]).await;
    stop(&ctx).await;

    // A page in its middle is overwritten.
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(bytes.len() > 8_192);
    bytes[4_096..].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    let _ = std::fs::remove_file(path.with_extension("db-wal"));
    let ctx = system.monitor(&path).await;
    system.finds(json!({}), &["ours"]).await;
    system.hand.submit("more").await;
    system
        .finds(json!({ "text": "fox" }), &["more", "ours"])
        .await;
    stop(&ctx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_of_tasks_that_left_the_log_are_removed() {
    let system = System::start().await;
    let hand = &system.hand;
    let mut ends = Vec::new();
    for id in ["a", "b", "c"] {
        ends.push(hand.cancelled(&hand.submit(id).await).await);
    }
    let live = hand.submit("live").await;
    let ctx = system.monitor(&system.path()).await;
    system.finds(json!({}), &["live", "c", "b", "a"]).await;
    let history = async |id: &str| {
        let id = spotreel_domain::TaskId::parse(id).unwrap();
        hand.tasks.history(&id).await.unwrap()
    };
    // As the janitor deletes: the early events, then the last one.
    for id in ["a", "c"] {
        for event in history(id).await {
            hand.tasks.delete(event.sequence).await.unwrap();
        }
    }
    system.finds(json!({}), &["live", "b"]).await;
    // The last message of the log is gone, too.
    let end = hand.cancelled(&live).await;
    system
        .finds(json!({ "state": "cancelled" }), &["live", "b"])
        .await;
    hand.tasks.delete(end.sequence).await.unwrap();
    system.finds(json!({ "state": "cancelled" }), &["b"]).await;
    stop(&ctx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_of_a_newer_version_is_waited_for() {
    let system = System::start().await;
    system.hand.submit("one").await;
    let context = async_nats::jetstream::new(system.hand.client.clone());
    let newer = context.publish("spotreel.log.t1.started", "".into()).await;
    newer.unwrap().await.unwrap();
    let ctx = system.monitor(&system.path()).await;
    until("it is told", async || {
        failing(&ctx, "search").is_some_and(|reason| reason.contains("upgrade monitor"))
    })
    .await;
    stop(&ctx).await;
}

/// When monitor is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as it is a process.
    AtOnce,
    /// When its file or that file's write-ahead log has changed this often since.
    AfterChanges(usize),
    /// When this task is found.
    Finds(usize),
}

impl Moment {
    /// Those of the start, of the first commits, and of those while the log grows.
    const ALL: [Self; 12] = [
        Self::AtOnce,
        Self::AfterChanges(1),
        Self::AfterChanges(2),
        Self::AfterChanges(3),
        Self::Finds(0),
        Self::AfterChanges(4),
        Self::AtOnce,
        Self::AfterChanges(1),
        Self::AfterChanges(6),
        Self::Finds(TASKS_A_ROUND - 1),
        Self::AtOnce,
        Self::AfterChanges(2),
    ];

    /// Waits for it. `names`: the tasks that are stored meanwhile.
    async fn comes(self, system: &System, program: &mut Program, names: &[String]) {
        match self {
            Self::AtOnce => {}
            Self::AfterChanges(most) => {
                let (mut seen, mut changes) = (system.on_disk(), 0);
                let waiting = async {
                    while changes < most {
                        assert!(program.is_running());
                        let now = system.on_disk();
                        changes += usize::from(now != seen);
                        seen = now;
                        // Shorter than a commit takes.
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                };
                let came = tokio::time::timeout(Duration::from_secs(60), waiting).await;
                assert!(came.is_ok(), "{self:?} does not come");
            }
            Self::Finds(at) => {
                until(&format!("{} is found", names[at]), async || {
                    let all = system.all().await;
                    all.iter().any(|(id, _)| *id == names[at])
                })
                .await;
            }
        }
    }
}

const TASKS_A_ROUND: usize = 400;

/// While it starts, reads and writes. In the end every task is found once, as the log has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kill_9_at_any_moment_loses_no_task_and_shows_none_twice() {
    let system = System::start().await;
    let hand = &system.hand;
    let request = tasks::request(spotreel_domain::Model::Ti2v5b);
    let log = system.dir.path().join("monitor.log");
    let mut wanted = BTreeMap::new();
    for (round, moment) in Moment::ALL.into_iter().enumerate() {
        let names: Vec<_> = (0..TASKS_A_ROUND)
            .map(|at| format!("r{round}-{at}"))
            .collect();
        let appends: Vec<_> = names
            .iter()
            .map(|name| Append::new(tasks::queued(name, &request, |_| {}), 0, ambient::uuid_v4()))
            .collect();
        let mut program = system.program(&log);
        let (killed, mut more) = (Cell::new(false), Vec::new());
        let writing = async {
            let stored = hand.tasks.append_batch(&appends, ambient::uuid_v4()).await;
            stored.unwrap();
            for name in names.iter().step_by(50) {
                hand.cancelled(&hand.last(name).await).await;
            }
            // The log grows until the kill.
            while !killed.get() {
                let name = format!("r{round}-more-{}", more.len());
                hand.submit(&name).await;
                more.push(name);
            }
        };
        tokio::join!(writing, async {
            moment.comes(&system, &mut program, &names).await;
            program.signal(Signal::SIGKILL);
            killed.set(true);
        });
        let all = names.iter().chain(&more);
        wanted.extend(all.map(|name| (name.clone(), "queued".to_owned())));
        for name in names.iter().step_by(50) {
            wanted.insert(name.clone(), "cancelled".to_owned());
        }
        program.left().await;
        let said = program.said();
        assert!(!said.contains("thrown away"), "{said}");
    }
    let _program = system.program(&log);
    until("all tasks are found", async || {
        let all = system.all().await;
        let found: BTreeMap<_, _> = all.iter().cloned().collect();
        assert_eq!(found.len(), all.len(), "none is shown twice");
        found == wanted
    })
    .await;
}
