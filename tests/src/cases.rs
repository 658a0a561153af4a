//! What must hold on one node and on three alike. Each case takes connections with all rights; on a cluster they lead
//! to different servers.

use std::time::Duration;

use async_nats::Client;
use futures::future::join_all;
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::log::{Append, AppendError};
use spotreel_bus::names::{self, HEADER_EXPECTED_FILTER, TASKS};
use spotreel_bus::{Delivery, Lease, Queue, Recorded, TaskLog};
use spotreel_domain::Task;
use spotreel_domain::{Event, Lane, Model, Priority, TaskId};

use crate::harness::eventually;
use crate::harness::tasks::{artifact, submitted, submitted_as, task_id};

const SOON: Duration = Duration::from_secs(30);
const PULL: Duration = Duration::from_secs(2);

pub async fn append(log: &TaskLog, step: (Event, Task), expected: u64) -> Result<u64, AppendError> {
    log.append(&Append::new(step, expected, ambient::uuid_v4()))
        .await
}

/// A new task in the log; its entry.
pub async fn submit(log: &TaskLog, id: &TaskId) -> u64 {
    append(log, submitted(id), 0)
        .await
        .expect("a new task can be written")
}

pub async fn last(log: &TaskLog, id: &TaskId) -> Recorded {
    log.last(id)
        .await
        .expect("the log answers")
        .expect("the task is there")
}

/// Writes `started` for `worker` after the task's newest event; its sequence.
pub async fn start(log: &TaskLog, id: &TaskId, worker: &str) -> u64 {
    let seen = last(log, id).await;
    let step = seen
        .task
        .started(worker, "test", 0, ambient::now())
        .expect("the task is queued");
    append(log, step, seen.sequence)
        .await
        .expect("nobody else writes")
}

pub async fn succeed(log: &TaskLog, id: &TaskId) -> Result<u64, AppendError> {
    let seen = last(log, id).await;
    let made = artifact(id, seen.sequence);
    let step = seen
        .task
        .succeeded(made, ambient::now())
        .expect("the task is started");
    append(log, step, seen.sequence).await
}

pub async fn queue(client: &Client) -> Queue {
    let name = names::work_consumer(Model::T2vA14b, Lane::front(Priority::Normal));
    Queue::open(client, TASKS, &name)
        .await
        .expect("the consumers are provisioned")
}

/// The next delivery, however long elections take.
pub async fn pull(queue: &Queue) -> Delivery {
    eventually("something is delivered", SOON, || async {
        queue.pull(PULL).await.ok().flatten()
    })
    .await
}

/// What waits in a queue, and what is delivered or delayed.
pub async fn counts(client: &Client, model: Model, priority: Priority) -> (u64, usize) {
    let context = async_nats::jetstream::new(client.clone());
    let name = names::work_consumer(model, Lane::front(priority));
    let found: async_nats::jetstream::consumer::PullConsumer = context
        .get_consumer_from_stream(&name, TASKS)
        .await
        .expect("the consumer is there");
    let info = found.cached_info();
    (info.num_pending, info.num_ack_pending)
}

pub async fn until_counts(client: &Client, wanted: (u64, usize)) {
    eventually(
        &format!("the queue's counts are {wanted:?}"),
        SOON,
        || async {
            let found = counts(client, Model::T2vA14b, Priority::Normal).await;
            (found == wanted).then_some(())
        },
    )
    .await;
}

/// Racers who all saw the same newest event: one may write the next.
pub async fn one_of_many_wins(clients: &[Client], racers: usize, rounds: usize) {
    let logs = join_all(clients.iter().map(TaskLog::open)).await;
    for _ in 0..rounds {
        let id = task_id("race");
        let entry = submit(&logs[0], &id).await;
        let queued = last(&logs[0], &id).await;
        let tries = (0..racers).map(|racer| {
            let worker = format!("racer-{racer}");
            let step = queued
                .task
                .started(&worker, "test", 0, ambient::now())
                .expect("it is queued");
            let log = logs[racer % logs.len()].clone();
            tokio::spawn(async move { append(&log, step, entry).await })
        });
        let results = join_all(tries)
            .await
            .into_iter()
            .map(|joined| joined.expect("no racer panics"));
        let (mut won, mut lost) = (Vec::new(), 0);
        for result in results {
            match result {
                Ok(sequence) => won.push(sequence),
                Err(AppendError::Conflict(Some(newest))) => {
                    assert_eq!(newest.event, Event::Started, "a loser is told who won");
                    lost += 1;
                }
                Err(other) => panic!("a racer heard {other:?}"),
            }
        }
        assert_eq!((won.len(), lost), (1, racers - 1));
        let history = history(&logs[0], &id, 2).await;
        assert_eq!(history.len(), 2, "queued and one started");
        assert_eq!(history[1].sequence, won[0]);
        for event in history {
            let filter = event
                .headers
                .get(HEADER_EXPECTED_FILTER)
                .map(|value| value.as_str().to_owned());
            assert_eq!(
                filter,
                Some(names::log_of(&id)),
                "all writers use one filter"
            );
        }
    }
}

/// The task's events, once there are so many: any replica answers, also one that is behind.
pub async fn history(log: &TaskLog, id: &TaskId, at_least: usize) -> Vec<Recorded> {
    eventually("the events are everywhere", SOON, || async {
        let history = log.history(id).await.expect("the log answers");
        (history.len() >= at_least).then_some(history)
    })
    .await
}

/// Two batches and a single write that meet in one task: each batch is stored whole or not at all, and the task that
/// they share has one first event.
pub async fn a_batch_is_stored_whole_or_not_at_all(clients: &[Client], rounds: usize) {
    let logs = join_all(clients.iter().map(TaskLog::open)).await;
    let write = |id: &TaskId| Append::new(submitted(id), 0, ambient::uuid_v4());
    for _ in 0..rounds {
        let shared = task_id("shared");
        let own: Vec<Vec<TaskId>> = (0..2)
            .map(|_| (0..5).map(|_| task_id("own")).collect())
            .collect();
        let batches = own.iter().enumerate().map(|(index, ids)| {
            let appends: Vec<Append> = ids.iter().chain([&shared]).map(write).collect();
            let log = logs[index % logs.len()].clone();
            async move {
                match log.append_batch(&appends, ambient::uuid_v4()).await {
                    Ok(_) => Some(true),
                    // It may have been stored: a busy server answers late.
                    Err(JetStreamError::Unknown(_)) => None,
                    Err(_) => Some(false),
                }
            }
        });
        let single = append(&logs[logs.len() - 1], submitted(&shared), 0);
        let (heard, single) = tokio::join!(join_all(batches), single);
        let history = history(&logs[0], &shared, 1).await;
        let mut batches = Vec::new();
        for (ids, heard) in own.iter().zip(heard) {
            batches.push(match heard {
                Some(won) => won,
                None => {
                    let found = logs[0].last(&ids[0]).await.expect("the log answers");
                    found.is_some()
                }
            });
        }
        let winners = batches.iter().filter(|won| **won).count() + usize::from(single.is_ok());
        assert_eq!(winners, 1, "batches {batches:?}, single {single:?}");
        assert_eq!(history.len(), 1);
        for (ids, won) in own.iter().zip(batches) {
            for id in ids {
                let found = logs[0].last(id).await.expect("the log answers");
                assert_eq!(found.is_some(), won, "a batch is all or nothing");
            }
        }
    }
}

/// Delivered once, back at once after a nak, later after a delayed one, again after its lease, gone after its ack.
pub async fn a_delivery_comes_back_until_it_is_acked(client: &Client, lease: Duration) {
    let log = TaskLog::open(client).await;
    let queue = queue(client).await;
    let entry = submit(&log, &task_id("delivery")).await;

    let first = pull(&queue).await;
    assert_eq!((first.sequence, first.delivered), (entry, 1));
    let none = queue
        .pull(Duration::ZERO)
        .await
        .expect("the server answers");
    assert!(none.is_none(), "a leased item is nobody else's");
    first.nak(Duration::ZERO).await.expect("naks arrive");

    let second = pull(&queue).await;
    assert_eq!((second.sequence, second.delivered), (entry, 2));
    let began = std::time::Instant::now();
    second.nak(lease / 2).await.expect("naks arrive");

    let third = pull(&queue).await;
    assert_eq!((third.sequence, third.delivered), (entry, 3));
    assert!(began.elapsed() >= lease / 2, "a delayed nak is not early");

    // Said nothing: its lease ends.
    let fourth = pull(&queue).await;
    assert_eq!((fourth.sequence, fourth.delivered), (entry, 4));
    fourth.ack().await.expect("acks arrive");
    until_counts(client, (0, 0)).await;
}

/// Held, an item is not delivered again; a newer event stops its holder; let go, it comes back.
pub async fn a_lease_holds_until_the_log_says_otherwise(client: &Client, lease: Duration) {
    let log = TaskLog::open(client).await;
    let queue = queue(client).await;
    let id = task_id("lease");
    submit(&log, &id).await;
    let delivery = pull(&queue).await;
    let fence = start(&log, &id, "holder").await;
    let held = Lease::hold(log.clone(), delivery, lease);
    held.fence(fence);
    let superseded = held.superseded();
    let early = queue.pull(lease * 2).await.expect("the server answers");
    assert!(early.is_none(), "it was renewed over two leases");
    assert!(!superseded.is_cancelled());

    let seen = last(&log, &id).await;
    let step = seen
        .task
        .cancelled(ambient::now())
        .expect("a started task can be cancelled");
    append(&log, step, seen.sequence)
        .await
        .expect("nobody else writes");
    tokio::time::timeout(SOON, superseded.cancelled())
        .await
        .expect("the holder is told");

    drop(held);
    let again = pull(&queue).await;
    assert_eq!(again.sequence, fence - 1, "nobody renews it any more");
    again.ack().await.expect("acks arrive");
    until_counts(client, (0, 0)).await;
}

/// The counts that capacity is rented by: right after a delete, whether the item waits, is delayed or in flight.
pub async fn a_deleted_entry_is_counted_nowhere(client: &Client) {
    let log = TaskLog::open(client).await;
    let queue = queue(client).await;
    let mut entries = Vec::new();
    for _ in 0..6 {
        entries.push(submit(&log, &task_id("counted")).await);
    }
    let (delayed, _in_flight) = (pull(&queue).await, pull(&queue).await);
    delayed
        .nak(Duration::from_secs(600))
        .await
        .expect("naks arrive");
    until_counts(client, (4, 2)).await;
    for entry in &entries[..5] {
        log.delete(*entry).await.expect("an entry can be deleted");
    }
    until_counts(client, (1, 0)).await;
    log.delete(entries[0])
        .await
        .expect("what is gone already is deleted too");
    log.delete(entries[5])
        .await
        .expect("an entry can be deleted");
    until_counts(client, (0, 0)).await;
}

/// Many new tasks of one model and priority, in batches.
pub async fn submit_many(log: &TaskLog, count: usize) {
    let appends: Vec<Append> = (0..count)
        .map(|_| {
            let step = submitted_as(&task_id("many"), Model::T2vA14b, Priority::Normal);
            Append::new(step, 0, ambient::uuid_v4())
        })
        .collect();
    for batch in appends.chunks(500) {
        log.append_batch(batch, ambient::uuid_v4())
            .await
            .expect("new tasks can be written");
    }
}
