//! The task log against the sequences that broke earlier layouts: on one node, through the bus alone.

use std::time::Duration;

use futures::future::join_all;
use spotreel_bootstrap::ambient;
use spotreel_bus::events::EventStream;
use spotreel_bus::log::{Append, AppendError};
use spotreel_bus::names::{self, TASKS};
use spotreel_bus::provision::{self, ProvisionOutcome};
use spotreel_bus::{Queue, TaskLog};
use spotreel_domain::task::{Failure, FailureKind, StartRuling, State};
use spotreel_domain::{Event, Lane, Model, Priority, TaskId};
use spotreel_tests::cases;
use spotreel_tests::harness::nats::layout;
use spotreel_tests::harness::tasks::{submitted, task_id};
use spotreel_tests::harness::{Nats, eventually};

const LEASE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(30);

async fn bus() -> (Nats, async_nats::Client, TaskLog) {
    let nats = Nats::provisioned(LEASE).await;
    let client = nats.client("provision").await;
    let log = TaskLog::open(&client).await;
    (nats, client, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_racers_one_writes_the_next_event() {
    let nats = Nats::provisioned(LEASE).await;
    let clients = join_all((0..5).map(|_| nats.client("provision"))).await;
    cases::one_of_many_wins(&clients, 50, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_overlap_are_stored_whole_or_not_at_all() {
    let nats = Nats::provisioned(LEASE).await;
    let clients = join_all((0..3).map(|_| nats.client("provision"))).await;
    cases::a_batch_is_stored_whole_or_not_at_all(&clients, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_comes_back_until_it_is_acked() {
    let (_nats, client, _) = bus().await;
    cases::a_delivery_comes_back_until_it_is_acked(&client, LEASE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_holds_until_the_log_says_otherwise() {
    let (_nats, client, _) = bus().await;
    cases::a_lease_holds_until_the_log_says_otherwise(&client, LEASE).await;
}

// A1: a client sends its request with the reply subject spotreel.log.<victim>.succeeded; the answer of a service,
// sent under its own rights, is stored as the victim's last event.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_client_cannot_be_aimed_at_the_log() {
    use futures::StreamExt;
    let (nats, _, log) = bus().await;
    let victim = task_id("victim");
    cases::submit(&log, &victim).await;
    let intake = nats.client("intake").await;
    let mut requests = intake
        .subscribe(names::SUBMIT)
        .await
        .expect("intake may listen");
    // An answer to what was asked later on the same connection: the server knows that we listen.
    let known = TaskLog::open(&intake).await.last(&victim).await;
    assert!(known.expect("the server answers").is_some());
    let client = nats.client("client").await;
    for aim in ["succeeded", "queued.ti2v-5B.1"] {
        let reply = format!("spotreel.log.{victim}.{aim}");
        client
            .publish_with_reply(names::SUBMIT, reply, "{}".into())
            .await
            .expect("it is sent");
        client.flush().await.expect("the server answers");
        let next = tokio::time::timeout(SOON, requests.next()).await;
        let request = next.expect("it arrives").expect("the subscription lives");
        let border = request.reply.expect("it wants an answer");
        assert!(
            border.starts_with("_R_."),
            "the border gives a subject of its own, not {border}"
        );
        intake
            .publish(border, "{\"forged\":true}".into())
            .await
            .expect("it is sent");
        // And what the border would have prevented is forbidden besides.
        intake
            .publish(format!("spotreel.log.{victim}.succeeded"), "forged".into())
            .await
            .expect("it is sent");
        intake.flush().await.expect("the server answers");
    }
    let history = log
        .history(&victim)
        .await
        .expect("every event of the log can still be read");
    assert_eq!(history.len(), 1, "nothing was added");
}

// A4: a purge leaves counts behind, and the fleet rents machines for a queue that is empty.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_deleted_one_by_one_and_counted_nowhere_after() {
    let (_nats, client, _) = bus().await;
    cases::a_deleted_entry_is_counted_nowhere(&client).await;
    let stream = async_nats::jetstream::new(client)
        .get_stream(TASKS)
        .await
        .expect("it is there");
    let purged = stream.purge().filter(names::LOG_ALL).await;
    assert!(purged.is_err(), "the log cannot be purged at all");
}

// A6: `failed` is stored, the worker dies before its ack, a person retries: two entries are deliverable, and two
// workers steal the task from each other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_entry_may_start_its_task() {
    let (_nats, client, log) = bus().await;
    let queue = cases::queue(&client).await;
    let id = task_id("retried");
    let old = cases::submit(&log, &id).await;
    let dead = cases::pull(&queue).await;
    cases::start(&log, &id, "dies").await;
    let seen = cases::last(&log, &id).await;
    let error = Failure {
        kind: FailureKind::Invalid,
        message: "no".into(),
    };
    let failed = seen
        .task
        .attempt_failed(error, ambient::now())
        .expect("it is started");
    let end = cases::append(&log, failed, seen.sequence)
        .await
        .expect("nobody else writes");
    let seen = cases::last(&log, &id).await;
    let again = seen
        .task
        .requeued(ambient::now())
        .expect("a failed task can be retried");
    let new = cases::append(&log, again, end)
        .await
        .expect("nobody else writes");

    let task = cases::last(&log, &id).await.task;
    assert_eq!((task.entry, task.previous_entry, task.round), (new, old, 2));
    let mut rulings = Vec::new();
    for _ in 0..2 {
        let delivery = cases::pull(&queue).await;
        rulings.push((
            delivery.sequence,
            task.rule_start(delivery.sequence, ambient::now()),
        ));
        delivery.ack().await.expect("acks arrive");
    }
    rulings.sort_by_key(|(sequence, _)| *sequence);
    assert_eq!(
        rulings,
        [(old, StartRuling::Forget), (new, StartRuling::Start)]
    );
    drop(dead);
    cases::until_counts(&client, (0, 0)).await;
}

// A7: a consumer that is made anew delivers everything that the log still holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_made_anew_counts_only_what_can_run() {
    let (_nats, client, log) = bus().await;
    let ids: Vec<TaskId> = (0..5).map(|_| task_id("anew")).collect();
    for id in &ids {
        cases::submit(&log, id).await;
    }
    for id in &ids[..3] {
        cases::start(&log, id, "w").await;
        cases::succeed(&log, id).await.expect("nobody else writes");
        log.delete(cases::last(&log, id).await.task.entry)
            .await
            .expect("an entry can be deleted");
    }
    let stream = async_nats::jetstream::new(client.clone())
        .get_stream(TASKS)
        .await
        .expect("it is there");
    let name = names::work_consumer(Model::T2vA14b, Lane::front(Priority::Normal));
    stream
        .delete_consumer(&name)
        .await
        .expect("it can be deleted");
    let unswept = provision::apply(&client, &layout(LEASE, 1)).await;
    assert!(unswept.unwrap_err().reason.contains("sweeper"));
    let sweeper = Queue::open(&client, TASKS, names::CONSUMER_SWEEPER)
        .await
        .expect("it is there");
    for swept in sweeper
        .pull_within(100, 1 << 20)
        .await
        .expect("the server answers")
    {
        swept.ack().await.expect("the server answers");
    }
    let reports = provision::apply(&client, &layout(LEASE, 1))
        .await
        .expect("it can be applied");
    let made: Vec<_> = reports
        .iter()
        .filter(|report| report.outcome != ProvisionOutcome::AsWanted)
        .collect();
    assert_eq!(
        made.len(),
        1,
        "only what was missing is made, nothing else differs: {made:?}"
    );
    cases::until_counts(&client, (2, 0)).await;
}

// A8: a task that kills its workers writes no failure; nothing bounds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_workers_ends() {
    let (_nats, client, log) = bus().await;
    let queue = cases::queue(&client).await;
    let id = task_id("poison");
    cases::submit(&log, &id).await;
    let mut starts = 0;
    loop {
        let delivery = cases::pull(&queue).await;
        let seen = cases::last(&log, &id).await;
        // The delays of retries are passed over: time is an argument.
        let now = ambient::now()
            .saturating_add(Duration::from_secs(3600))
            .expect("within bounds");
        match seen.task.rule_start(delivery.sequence, now) {
            StartRuling::Start => {
                cases::start(&log, &id, "dies").await;
                starts += 1;
                assert!(starts <= 12, "three starts a failure, four failures");
            }
            StartRuling::DeclareLost => {
                let step = seen
                    .task
                    .lost(false, ambient::now())
                    .expect("it is started");
                cases::append(&log, step, seen.sequence)
                    .await
                    .expect("nobody else writes");
            }
            StartRuling::Forget => {
                delivery.ack().await.expect("acks arrive");
                break;
            }
            StartRuling::Wait(_) => panic!("the time for it has come"),
        }
        delivery.nak(Duration::ZERO).await.expect("naks arrive");
    }
    let end = cases::last(&log, &id).await;
    assert_eq!((end.event, starts), (Event::Failed, 12));
    assert!(matches!(end.task.state, State::Failed { error } if error.kind == FailureKind::Lost));
}

// A9: a terminal event with a time to live expires before the rest is removed; the task looks started again, and a
// late worker's success is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_vanishes_by_itself() {
    let (_nats, client, log) = bus().await;
    let mut stream = async_nats::jetstream::new(client.clone())
        .get_stream(TASKS)
        .await
        .expect("it is there");
    let config = &stream.info().await.expect("the server answers").config;
    assert_eq!(config.max_age, Duration::ZERO);
    assert!(!config.allow_message_ttl);
    assert_eq!(config.max_messages_per_subject, -1);
    let id = task_id("ttl");
    let mut append = Append::new(submitted(&id), 0, ambient::uuid_v4());
    append.headers.insert("Nats-TTL", "1s");
    log.append(&append)
        .await
        .expect_err("the log takes no message that expires");
}

// A10: the log is full, and the events of accepted tasks are refused like new tasks. The bus says so in a word of its
// own; that intake stops earlier is tested with the services.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_told_from_every_other_error() {
    let nats = Nats::start().await;
    let client = nats.client("provision").await;
    let small = provision::Layout {
        tasks_max_bytes: 64 << 10,
        ..layout(LEASE, 1)
    };
    provision::apply(&client, &small)
        .await
        .expect("it can be applied");
    let log = TaskLog::open(&client).await;
    let mut written = 0;
    let refused = loop {
        match cases::append(&log, submitted(&task_id("full")), 0).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, AppendError::Full),
        "{refused:?} after {written}"
    );
    assert!(written > 10);
}

// A11: the second `started` of a task has the subject of the first; a compare-and-set on the subject swallows it. And
// a notifier that reads the log again publishes old ends anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_happens_twice_is_told_twice_and_each_only_once() {
    let (_nats, client, _) = bus().await;
    let events = EventStream::open(&client).await;
    let id = task_id("twice");
    for (event, sequence, told) in [
        ("started", 10, true),
        ("started", 10, false),
        ("started", 20, true),
        ("failed", 30, true),
        ("queued", 40, true),
        ("failed", 50, true),
        ("started", 10, false),
        ("failed", 30, false),
    ] {
        let published = events
            .publish(&id, event, sequence, Default::default(), "{}".into())
            .await;
        assert_eq!(
            published.expect("the server answers"),
            told,
            "{event} of {sequence}"
        );
    }
}

// A12: a submission that nobody can read has no subject to be answered on.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_an_id_is_kept_once() {
    let (_nats, client, _) = bus().await;
    let events = EventStream::open(&client).await;
    assert!(
        events
            .reject(None, 7, "{}".into())
            .await
            .expect("the server answers")
    );
    assert!(
        !events
            .reject(None, 7, "{}".into())
            .await
            .expect("a redelivery is the same refusal")
    );
    let stream = async_nats::jetstream::new(client)
        .get_stream(names::EVENTS)
        .await
        .expect("it is there");
    let kept = stream
        .get_last_raw_message_by_subject(&names::rejected(7))
        .await;
    assert!(kept.is_ok(), "a client that was away can still read it");
    let of = |index| TaskId::from_inbox(names::INBOX, 7, 1, index);
    assert_eq!(
        of(0),
        of(0),
        "and a redelivery without an id is the same task"
    );
}

// A14: by default 1,000 delayed retries block the whole queue.
#[tokio::test(flavor = "multi_thread")]
async fn delayed_retries_do_not_block_the_queue() {
    const DELAYED: usize = 1_500;
    let (_nats, client, log) = bus().await;
    let queue: Queue = cases::queue(&client).await;
    cases::submit_many(&log, DELAYED).await;
    let mut waiting = 0;
    while waiting < DELAYED {
        let ready = queue
            .pull_within(250, 1 << 20)
            .await
            .expect("the server answers");
        waiting += ready.len();
        join_all(
            ready
                .iter()
                .map(|delivery| delivery.nak(Duration::from_secs(600))),
        )
        .await;
    }
    let entry = cases::submit(&log, &task_id("new")).await;
    let next = eventually("the new task is delivered", SOON, || async {
        queue.pull(LEASE).await.ok().flatten()
    });
    assert_eq!(next.await.sequence, entry);
}
