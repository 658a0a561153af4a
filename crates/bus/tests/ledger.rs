//! The stream LEDGER on a real server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use spotreel_bus::ledger::LedgerStream;
use spotreel_bus::names;
use spotreel_domain::allocation::{
    AttemptRecord, BatchLedger, Knowledge, NextAttempt, TaskShare, merged,
};
use spotreel_domain::batch::{Batch, Ending, InstanceState, Status, Wanted};
use spotreel_domain::task::{Attempt, AttemptOutcome};
use spotreel_domain::{Model, TaskId};
use spotreel_test_kit::{Nats, pool, spot_instance};

/// More than the server takes in one atomic batch, and more than a page of a scan.
const TASKS: u32 = 1_100;

fn at(seconds: i64) -> Timestamp {
    let began: Timestamp = "2026-11-30T10:00:00Z".parse().unwrap();
    began + SignedDuration::from_secs(seconds)
}

fn attempt(task: u32) -> AttemptRecord {
    let from = i64::from(task) * 60;
    AttemptRecord {
        task: TaskId::parse(&format!("t-{task}")).unwrap(),
        born: 7,
        number: 1,
        owner: None,
        model: Model::Ti2v5b,
        steps: 50,
        // A label for each: a cell of the costs for each.
        labels: BTreeMap::from([("shot".to_owned(), task.to_string())]),
        attempt: Attempt {
            worker: "w-1".into(),
            instance: "i-1".into(),
            started_at: at(from),
            ended_at: Some(at(from + 60)),
            outcome: AttemptOutcome::Succeeded,
            from_step: 0,
            rendering_at: None,
            steps_done: None,
            error: None,
        },
        next: None,
    }
}

/// One instance that has rendered all tasks.
fn settled() -> Batch {
    let wanted = Wanted {
        rule: "length".into(),
        why: "a test wants it".into(),
        units: 1,
        slot: None,
        deadline: at(3_600),
    };
    let mut batch = Batch::request(&pool("default"), None, wanted, at(0)).unwrap();
    let mut one = spot_instance("i-1", "g6.xlarge", at(0));
    let ended_at = at(i64::from(TASKS) * 60 + 100);
    one.usage.left_at = Some(ended_at);
    one.bill(ended_at);
    one.state = InstanceState::Gone {
        ending: Ending::Terminated,
        at: ended_at,
    };
    batch.instances = vec![one];
    (batch.status, batch.ended_at) = (Status::Settled, Some(ended_at));
    batch
}

#[tokio::test]
async fn an_attempt_is_stored_once_for_each_thing_that_is_known_of_it() {
    let nats = Nats::for_services().await;
    let ledger = LedgerStream::new(&nats.client("monitor").await);
    let ended = attempt(1);
    let mut started = ended.clone();
    (started.attempt.ended_at, started.attempt.outcome) = (None, AttemptOutcome::Running);
    let mut followed = ended.clone();
    followed.next = Some(NextAttempt {
        from_step: 3,
        started_at: at(99),
    });
    let mut elsewhere = attempt(2);
    // A host's name may have dots, and must not fall into another one's.
    elsewhere.attempt.instance = "i-1.example".into();
    for record in [&ended, &followed, &started, &elsewhere, &ended, &followed] {
        ledger.record(record).await.unwrap();
    }
    let found = ledger.attempts_on("i-1").await.unwrap();
    let known: Vec<_> = found.iter().map(AttemptRecord::knows).collect();
    assert_eq!(
        known,
        [Knowledge::Ended, Knowledge::Followed, Knowledge::Started]
    );
    assert_eq!(merged(found), [followed]);
    let found = ledger.attempts_on("i-1.example").await.unwrap();
    assert_eq!(found, [elsewhere]);
    assert_eq!(ledger.attempts_on("i-2").await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_json_is_passed_over_and_what_a_newer_version_wrote_is_not() {
    let nats = Nats::for_services().await;
    let client = nats.client("monitor").await;
    let stream = LedgerStream::new(&client);
    let batch = settled();
    let ledger = BatchLedger::of(&batch, vec![attempt(1)], at(0));
    let context = async_nats::jetstream::new(nats.client("provision").await);
    let store = async |subject: String, payload: &'static str| {
        let stored = context.publish(subject, payload.into()).await.unwrap();
        stored.await.unwrap();
    };
    let elsewhere = format!("{}.x", names::ledger_attempt(&attempt(2)));
    store(elsewhere, "garbage").await;
    store(names::ledger_share(&batch.id, &attempt(2).task), "garbage").await;
    store(names::ledger_costs(&batch.id, 7), "garbage").await;
    stream.record(&attempt(1)).await.unwrap();
    stream.close(&ledger).await.unwrap();

    let known = attempt(1);
    let found = stream.attempts_on(&known.attempt.instance).await;
    assert_eq!(found.unwrap(), std::slice::from_ref(&known));
    let tasks: Vec<TaskShare> = stream.shares_in(&batch.id).await.unwrap();
    assert_eq!(tasks, ledger.tasks);
    assert_eq!(stream.shares_of(&attempt(2).task).await.unwrap(), []);
    let mut pages = stream.costs_since(Timestamp::UNIX_EPOCH);
    let page = pages.next().await.unwrap().unwrap();
    assert_eq!(page, [(batch.id.clone(), ledger.cells.clone())]);
    assert!(stream.is_closed(&batch.id).await.unwrap());

    store(names::ledger_attempt(&attempt(3)), "{\"number\": \"one\"}").await;
    assert!(stream.attempts_on(&known.attempt.instance).await.is_err());
}

#[tokio::test]
async fn a_ledger_is_closed_once_and_read_by_batch_by_task_and_by_time() {
    let nats = Nats::for_services().await;
    let stream = LedgerStream::new(&nats.client("monitor").await);
    let batch = settled();
    let ledger = BatchLedger::of(&batch, (0..TASKS).map(attempt).collect(), at(0));
    assert_eq!(stream.ledger(&batch.id).await.unwrap(), None);
    let began = Timestamp::UNIX_EPOCH;
    assert!(stream.close(&ledger).await.unwrap());
    // By another monitor, or by this one after a crash.
    assert!(!stream.close(&ledger).await.unwrap());

    let head = stream.ledger(&batch.id).await.unwrap().unwrap();
    assert_eq!(
        (head.total, head.task_count),
        (ledger.total, TASKS as usize)
    );
    assert_eq!(head.instances, ledger.instances);
    let mut tasks: Vec<TaskShare> = stream.shares_in(&batch.id).await.unwrap();
    tasks.sort_by(|a, b| a.task.cmp(&b.task));
    assert_eq!(tasks, ledger.tasks);
    let one = &ledger.tasks[5];
    let shares = stream.shares_of(&one.task).await.unwrap();
    assert_eq!(shares, [(batch.id.clone(), one.clone())]);
    let nobody = TaskId::parse("t-9999").unwrap();
    assert_eq!(stream.shares_of(&nobody).await.unwrap(), []);

    let mut cells = Vec::new();
    let mut pages = stream.costs_since(began);
    while let Some(page) = pages.next().await.unwrap() {
        for (of, some) in page {
            assert_eq!(of, batch.id);
            cells.extend(some);
        }
    }
    assert_eq!(cells, ledger.cells);
    let later = "2100-01-01T00:00:00Z".parse().unwrap();
    let nothing = stream.costs_since(later).next().await.unwrap();
    assert!(nothing.is_none(), "nothing was closed since");
}
