//! What an operator sees and orders: pools of their own, batches, machines, and refusals in words.

mod system;

use std::process::Command;

use serde_json::Value;
use system::{Dev, document, refusal, spotreel, until};
use tempfile::TempDir;

/// Two pools, as a person writes them.
const POOLS: &str = r#"
[pool.small]
models = ["ti2v-5B"]
kinds = [{ name = "g6.xlarge", cap = 0.36 }]
rules.budgets = { per_day = 2.5 }
[pool.large]
models = ["t2v-A14B", "i2v-A14B"]
kinds = [{ name = "p5.4xlarge", cap = 3.0 }, { name = "g6e.xlarge", cap = 0.85 }]
"#;

/// Short patience with machines that do not come up.
const IMPATIENT: &str = r#"
[pool.default]
patience.boot = "4s"
patience.no_capacity = "1s"
breaker = { failures = 3, pause = "1s", longest_pause = "1s", pauses = 1 }
"#;

struct Stage {
    dir: TempDir,
    dev: Dev,
}

impl Stage {
    async fn with_pools(pools: &str, args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, pools).expect("it can be written");
        let own = ["--pools", &file.display().to_string()];
        let dev = Dev::start(dir.path(), &[&own[..], args].concat()).await;
        Self { dir, dev }
    }

    async fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let dev = Dev::start(dir.path(), args).await;
        Self { dir, dev }
    }

    fn submit(&self, args: &[&str]) -> String {
        self.submit_prompt("a fox", args)
    }

    fn submit_prompt(&self, prompt: &str, args: &[&str]) -> String {
        let small = ["submit", "--prompt", prompt, "--frames", "5"];
        let id = self.dev.say(&[&small[..], args].concat());
        id.trim().to_owned()
    }

    fn status(&self, id: &str) -> Value {
        document(&self.dev.say(&["status", id, "--json"]))
    }

    fn batch(&self, id: &str) -> Value {
        let told = self.dev.say(&["batches", id, "--json"]);
        document(told.lines().last().expect("the batch itself comes last"))
    }

    fn refused(&self, args: &[&str]) -> String {
        refusal(self.dir.path(), args)
    }
}

#[tokio::test]
async fn each_machine_takes_only_models_of_its_own_pool() {
    let stage = Stage::with_pools(POOLS, &["--max-wait", "1s"]).await;
    let small = stage.submit(&["--steps", "2"]);
    let large = stage.submit(&["--steps", "2", "--model", "t2v-A14B"]);
    let done = |id: &str| stage.status(id)["state"] == "succeeded";
    until("both are rendered", || done(&small) && done(&large)).await;
    for (task, batch, kind) in [
        (small, "small-1", "g6.xlarge"),
        (large, "large-1", "g6e.xlarge"),
    ] {
        let settled = || stage.batch(batch)["status"] == "settled";
        until("its batch has settled", settled).await;
        let machine = stage.status(&task)["attempts"][0]["instance"].clone();
        let line = stage.batch(batch)["receipt"]["lines"][0].clone();
        assert_eq!((&line["instance"], &line["kind"]), (&machine, &kind.into()));
    }
    let why = stage.dev.say(&["why"]);
    assert!(why.contains("budgets:   $2.5000 a day"), "{why}");
    assert!(why.contains("budgets:   none set"), "{why}");
    let own = std::fs::read_to_string(stage.dir.path().join("pools.toml"));
    let own = own.expect("dev has written it");
    assert!(
        own.contains("g6e.xlarge") && !own.contains("p5.4xlarge"),
        "the small cloud has none: {own}"
    );
    let kept = std::fs::read_to_string(stage.dir.path().join("mine.toml"));
    assert_eq!(kept.expect("it is there"), POOLS);
}

#[tokio::test]
async fn machines_whose_engine_does_not_start_are_given_up_and_the_engines_words_are_told() {
    let stage =
        Stage::with_pools(IMPATIENT, &["--engine-arg=--mistyped", "--max-wait", "1s"]).await;
    stage.submit(&[]);
    let failed = || stage.batch("default-1")["status"] == "failed";
    until("the batch is given up", || {
        let told = stage.dev.say(&["batches", "--json"]);
        !told.is_empty() && failed()
    })
    .await;
    let batch = stage.dev.say(&["batches", "default-1"]);
    for words in ["did not serve", "engine_exited", "status 2", "--mistyped"] {
        assert!(batch.contains(words), "no {words:?}: {batch}");
    }
    let list = stage.dev.say(&["batches"]);
    assert!(
        list.contains("machines in a row ended before they served"),
        "{list}"
    );
    let why = stage.dev.say(&["why"]);
    assert!(why.contains("launches are held by fleet"), "{why}");
    assert_eq!(why.matches("engine_exited").count(), 1, "told once: {why}");

    let machines = stage.dir.path().join("s3/machines");
    let mut machines = std::fs::read_dir(machines).expect("it is there");
    let machine = machines
        .next()
        .expect("one was bought")
        .expect("it can be read");
    let console = std::fs::read_to_string(machine.path().join("console.log"));
    let console = console.expect("it is where the help says");
    assert!(console.contains("--mistyped"), "{console}");
}

#[tokio::test]
async fn a_live_batch_counts_its_tasks_and_a_stopped_one_names_who_and_why() {
    let args = [
        "--max-wait",
        "1s",
        "--max-instances",
        "1",
        "--step-ms",
        "1000",
    ];
    let stage = Stage::start(&args).await;
    let first = stage.submit(&["--steps", "2"]);
    stage.submit(&["--steps", "60"]);
    until("the first is rendered", || {
        stage.status(&first)["state"] == "succeeded"
    })
    .await;
    let batch = stage.batch("default-1");
    assert_eq!(
        (&batch["status"], &batch["tasks_done"]),
        (&"running".into(), &1.into())
    );
    let live = stage.dev.say(&["batches", "default-1"]);
    assert!(live.contains("tasks:     1 done"), "{live}");
    let top = stage.dev.say(&["top"]);
    assert!(
        top.contains("pool default: 0 queued, 1 in workers' hands"),
        "{top}"
    );
    assert!(top.contains("batch default-1, running"), "{top}");
    let failed = "spotreel.task.*.failed";
    let ends = "spotreel.task.*.succeeded";
    let told = |subject| stage.dev.say(&["events", "--subject", subject]);
    assert_eq!(told(failed), "");
    let told = told(ends);
    assert!(told.contains(&format!("{first} succeeded")), "{told}");
    let since = |span| stage.dev.say(&["batches", "--since", span]);
    assert!(since("1h").contains("default-1"));
    assert_eq!(since("0s"), "no batches\n");

    let wrong = stage.refused(&["stop", "nope"]);
    assert!(
        wrong.contains("there is no batch \"nope\"") && wrong.contains("default-17"),
        "{wrong}"
    );
    let long = stage.refused(&["stop", "--reason", "two\nlines"]);
    assert!(long.contains("reason is one line"), "{long}");
    stage
        .dev
        .say(&["stop", "--now", "--by", "ada", "--reason", "wrong prompts"]);
    until("it has settled", || {
        stage.batch("default-1")["status"] == "settled"
    })
    .await;
    let story = stage.dev.say(&["batches", "default-1"]);
    assert!(
        story.contains("stopped by ada, reason \"wrong prompts\""),
        "{story}"
    );
    assert!(story.contains("stopped:   by ada"), "{story}");
}

#[tokio::test]
async fn an_order_to_run_is_refused_while_launches_are_held() {
    let stage = Stage::start(&["--max-wait", "1h"]).await;
    stage.dev.say(&["hold", "--by", "ada", "--reason", "again"]);
    let refused = stage.refused(&["run"]);
    for words in ["held by ada since", "reason \"again\"", "force"] {
        assert!(refused.contains(words), "{refused}");
    }
    stage.dev.say(&["run", "--force"]);
    stage.dev.say(&["resume"]);
    stage.dev.say(&["run"]);
}

#[tokio::test]
async fn machines_of_ones_own_are_shown_and_a_task_that_waits_is_in_nobodys_hands() {
    let stage = Stage::start(&["--workers", "2"]).await;
    until("both say that they are there", || {
        let fleet = stage.dev.say(&["fleet"]);
        fleet.contains("worker-1") && fleet.contains("worker-2")
    })
    .await;
    let fleet = stage.dev.say(&["fleet"]);
    assert!(!fleet.contains("machines:  none"), "{fleet}");

    let task = stage.submit_prompt("{{crash@1}}", &["--steps", "2"]);
    let waits = || {
        let status = stage.status(&task);
        status["state"] == "queued" && status["not_before"].is_string()
    };
    until("it waits for its next try", waits).await;
    until("nobody is said to have it in hand", || {
        let why = stage.dev.say(&["why"]);
        waits() && why.contains("1 queued, 0 in workers' hands")
    })
    .await;
}

#[tokio::test]
async fn who_may_not_order_is_told_so_by_the_server() {
    let stage = Stage::start(&["--workers", "0"]).await;
    let endpoints = std::fs::read_to_string(stage.dir.path().join("endpoints.env"));
    let endpoints = endpoints.expect("it is there");
    let of = |name: &str| {
        let mut lines = endpoints.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).expect("it is told").1
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel"));
    command
        .args(["run", "--nats-url", of("NATS_URL"), "--nats-user", "client"])
        .args(["--nats-password", of("NATS_PASSWORD")])
        .env_remove("SPOTREEL_DIR");
    let output = command.output().expect("it can be run");
    let told = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("this user has no permission for spotreel.ops.run: only an operator"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(!told.contains('\u{1b}'), "{told:?}");

    let warned = spotreel(stage.dir.path(), &["list"])
        .env("RUST_LOG", "debug")
        .output();
    let warned = String::from_utf8(warned.expect("it can be run").stderr).expect("it is text");
    assert!(
        !warned.is_empty() && !warned.contains('\u{1b}'),
        "{warned:?}"
    );
}
