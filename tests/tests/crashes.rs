//! The bus over a server that freezes, dies and comes back.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use spotreel_api::AcceptedMany;
use spotreel_bootstrap::ambient;
use spotreel_bus::TaskLog;
use spotreel_bus::jetstream::{self, Start, Stored};
use spotreel_bus::log::{Append, AppendError, MAX_BATCH};
use spotreel_bus::names::EVENTS;
use spotreel_domain::Event;
use spotreel_tests::cases;
use spotreel_tests::harness::tasks::{name, small, submitted, task_id};
use spotreel_tests::harness::{Nats, System, SystemOptions, eventually};

const LEASE: Duration = Duration::from_secs(2);
/// One try of an append waits 5 s for its answer.
const PAST_ONE_TRY: Duration = Duration::from_secs(7);
const SOON: Duration = Duration::from_secs(40);

// A13: the answer is lost, the event is stored; taking the refusal of the second try for a defeat lets the task go.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_was_lost_knows_its_own_event() {
    let nats = Nats::provisioned(LEASE).await;
    let log = TaskLog::open(&nats.client("provision").await).await;
    let id = task_id("lost-answer");
    let entry = cases::submit(&log, &id).await;
    let queued = cases::last(&log, &id).await;
    let step = queued
        .task
        .started("w", "test", 0, ambient::now())
        .expect("it is queued");
    nats.pause();
    let appending = tokio::spawn({
        let log = log.clone();
        async move { cases::append(&log, step, entry).await }
    });
    tokio::time::sleep(PAST_ONE_TRY).await;
    assert!(!appending.is_finished(), "it is not given up");
    nats.resume();
    let stored = tokio::time::timeout(SOON, appending)
        .await
        .expect("it ends")
        .expect("no panic");
    let sequence = stored.expect("the event is in the log, and it is ours");
    let history = log.history(&id).await.expect("the log answers");
    assert_eq!(
        history.len(),
        2,
        "it was stored once, however often it was sent"
    );
    assert_eq!(history[1].sequence, sequence);
}

// The other half of A13: while the answer was lost, somebody else wrote first.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_place_was_taken_hears_by_whom() {
    let nats = Nats::provisioned(LEASE).await;
    let log = TaskLog::open(&nats.client("provision").await).await;
    let id = task_id("taken");
    let entry = cases::submit(&log, &id).await;
    let queued = cases::last(&log, &id).await;
    let step = queued.task.cancelled(ambient::now()).expect("it is queued");
    cases::append(&log, step, entry)
        .await
        .expect("nobody else writes");
    let late = queued
        .task
        .started("w", "test", 0, ambient::now())
        .expect("it was queued");
    match cases::append(&log, late, entry).await {
        Err(AppendError::Conflict(Some(newest))) => assert_eq!(newest.event, Event::Cancelled),
        other => panic!("it heard {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_of_the_server() {
    const TASKS: usize = 60;
    let mut nats = Nats::provisioned(LEASE).await;
    let log = TaskLog::open(&nats.client("provision").await).await;
    let writer = tokio::spawn({
        let log = log.clone();
        async move {
            let mut written = Vec::new();
            for _ in 0..TASKS {
                let id = task_id("crash");
                let op = ambient::uuid_v4();
                let sequence = log.append(&Append::new(submitted(&id), 0, op)).await;
                written.push((id, sequence.expect("a restart is waited for")));
            }
            written
        }
    });
    for _ in 0..4 {
        let before = newest(&log).await;
        eventually("some more was written", SOON, || async {
            (newest(&log).await > before + 3 || writer.is_finished()).then_some(())
        })
        .await;
        nats.crash().await;
    }
    let written = tokio::time::timeout(SOON * 2, writer)
        .await
        .expect("it ends")
        .expect("no panic");
    for (id, sequence) in written {
        let history = log.history(&id).await.expect("the log answers");
        assert_eq!(history.len(), 1, "{id} is there, once");
        assert_eq!(history[0].sequence, sequence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_counts_over_a_restart_and_what_was_not_acked_comes_back() {
    let mut nats = Nats::provisioned(LEASE).await;
    let client = nats.client("provision").await;
    let log = TaskLog::open(&client).await;
    let queue = cases::queue(&client).await;
    let (done, open) = (task_id("done"), task_id("open"));
    cases::submit(&log, &done).await;
    let entry = cases::submit(&log, &open).await;
    let first = cases::pull(&queue).await;
    let second = cases::pull(&queue).await;
    first.ack().await.expect("acks arrive");
    nats.restart().await;
    let again = cases::pull(&queue).await;
    assert_eq!(again.sequence, entry, "only the open one comes back");
    // A crash may forget acks of the last moments: they are not written as events are, and only tidy up. What was
    // not acked comes back in any case, and a delivery of before the crash can still end it.
    nats.crash().await;
    assert_eq!(cases::pull(&queue).await.sequence, entry);
    second.ack().await.expect("acks arrive over a reconnect");
    cases::until_counts(&client, (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_open_over_a_restart_ends_soon() {
    let mut nats = Nats::provisioned(LEASE).await;
    let client = nats.client("provision").await;
    let log = TaskLog::open(&client).await;
    let queue = cases::queue(&client).await;
    let open = tokio::spawn({
        let queue = queue.clone();
        async move {
            queue
                .pull(Duration::from_secs(5))
                .await
                .map(|found| found.is_some())
        }
    });
    nats.crash().await;
    let entry = cases::submit(&log, &task_id("after")).await;
    // Whatever the old pull heard, the next one gets the message, at the latest when a lease of the old one has ended.
    let _ = tokio::time::timeout(SOON, open)
        .await
        .expect("it ends")
        .expect("no panic");
    assert_eq!(cases::pull(&queue).await.sequence, entry);
}

async fn newest(log: &TaskLog) -> u64 {
    let context = async_nats::jetstream::new(log.client().clone());
    match context.get_stream("TASKS").await {
        Ok(stream) => stream.cached_info().state.last_sequence,
        Err(_) => 0,
    }
}

// Events are told in groups: one that was stored and not acked comes again, and so does one of which nobody knows whether it
// was stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_told_once_and_in_order_through_the_deaths_of_notifier_and_server() {
    const ROUNDS: usize = 8;
    const BURST: usize = 250;
    let mut system = System::start(SystemOptions {
        workers: 0,
        ..SystemOptions::default()
    })
    .await;
    let api = system.api().await;
    for round in 0..ROUNDS {
        let ids: Vec<_> = (0..BURST).map(|_| name("burst")).collect();
        let tasks: Vec<_> = ids.iter().map(|id| small(id, 1)).collect();
        let tasks = Value::from(tasks);
        // The same list again, where the server died before its answer: the same tasks.
        let accepted = eventually("the burst is accepted", SOON, || async {
            let answer: Result<AcceptedMany, _> = api.ask("submit", &tasks).await;
            answer.ok()
        });
        assert_eq!(accepted.await.refused, 0);
        let cancelled = ids.iter().step_by(10).map(|id| api.cancel(id));
        for cancelled in join_all(cancelled).await {
            cancelled.expect("nobody else ends it");
        }
        // In the middle of what it tells.
        system.notifier.kill9();
        if round % 2 == 1 {
            system.nats.crash().await;
        }
        system.notifier.begin();
    }
    let wanted = ROUNDS * (BURST + BURST / 10);
    let client = system.nats.client("provision").await;
    let told = async || {
        let mut told = Vec::new();
        loop {
            let from = told.last().map_or(1, |last: &Stored| last.sequence + 1);
            let page = jetstream::page(&client, EVENTS, ">", Start::Sequence(from), MAX_BATCH);
            match page.await.expect("NATS answers") {
                page if page.is_empty() => return told,
                page => told.extend(page),
            }
        }
    };
    let all = eventually("all is told", SOON, || async {
        let told = told().await;
        (told.len() >= wanted).then_some(told)
    })
    .await;
    assert_eq!(all.len(), wanted);
    let mut ended = HashSet::new();
    let mut seen = HashSet::new();
    for event in &all {
        assert!(seen.insert(&event.subject), "{} twice", event.subject);
        let (task, what) = event.subject.rsplit_once('.').expect("of a task");
        match what {
            "cancelled" => assert!(ended.insert(task)),
            _ => assert!(!ended.contains(task), "{} is too late", event.subject),
        }
    }
}
