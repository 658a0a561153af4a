//! The batch log, operators' orders and leadership on a real server, each as the user who does it in the product.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use spotreel_bus::log::AppendError;
use spotreel_bus::log::ReadError;
use spotreel_bus::{BatchLog, Leadership, Undecodable, batches, controls, names};
use spotreel_domain::batch::{Batch, BatchId, PoolName, Status, Wanted};
use spotreel_test_kit::{Logs, Nats, spot_instance, until};
use tokio_util::sync::CancellationToken;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

fn requested(name: &str, last: Option<&Batch>) -> Batch {
    let wanted = Wanted {
        rule: "threshold".into(),
        why: "12 tasks wait".into(),
        units: 2,
        slot: None,
        deadline: at(3600),
    };
    Batch::request(&pool(name), last, wanted, at(0)).unwrap()
}

fn with(batch: &Batch, status: Status) -> Batch {
    Batch {
        status,
        ..batch.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_all_who_want_a_batch_one_gets_it() {
    let nats = Nats::for_services().await;
    let rivals = (0..8).map(|_| nats.client("trigger"));
    let mut tries = Vec::new();
    for rival in rivals {
        let log = BatchLog::open(&rival.await).await;
        tries.push(tokio::spawn(async move {
            log.append(&requested("default", None), 0).await
        }));
    }
    let mut won = Vec::new();
    for one in tries {
        match one.await.unwrap() {
            Ok(sequence) => won.push(sequence),
            Err(AppendError::Conflict(Some(newest))) => {
                assert_eq!(newest.batch, requested("default", None));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_tells_each_batch_and_the_ledgers() {
    let nats = Nats::for_services().await;
    let (trigger, fleet) = (nats.client("trigger").await, nats.client("fleet").await);
    let (trigger, fleet) = (BatchLog::open(&trigger).await, BatchLog::open(&fleet).await);
    let before = Timestamp::UNIX_EPOCH;
    assert!(
        fleet
            .recent(10, Undecodable::Fails)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        fleet
            .finals(None, before, Undecodable::Fails)
            .await
            .unwrap()
            .is_empty()
    );

    let first = requested("default", None);
    let sequence = trigger.append(&first, 0).await.unwrap();
    let failed = Status::Failed {
        reason: "no place".into(),
    };
    let mut last = sequence;
    for status in [Status::Launching, Status::Running, Status::Draining, failed] {
        last = fleet.append(&with(&first, status), last).await.unwrap();
    }
    let end = trigger.last(&pool("default")).await.unwrap().unwrap();
    assert_eq!((end.sequence, end.batch.is_active()), (last, false));
    let second = requested("default", Some(&end.batch));
    assert_eq!(second.id.to_string(), "default-2");
    let second_at = trigger.append(&second, last).await.unwrap();
    let other = requested("gpu-80gb", None);
    let other_at = trigger.append(&other, 0).await.unwrap();
    let settled = with(&other, Status::Settled);
    let other_end = fleet.append(&settled, other_at).await.unwrap();

    let history = fleet.history(&first.id).await.unwrap();
    let names: Vec<_> = history.iter().map(|e| e.batch.status.name()).collect();
    assert_eq!(
        names,
        ["requested", "launching", "running", "draining", "failed"]
    );
    assert_eq!(fleet.get(&first.id).await.unwrap().unwrap().sequence, last);
    let none = BatchId::parse("default-3").unwrap();
    assert!(fleet.get(&none).await.unwrap().is_none());
    assert_eq!(
        trigger.pools().await.unwrap(),
        [pool("default"), pool("gpu-80gb")]
    );
    let sequences = |events: Vec<spotreel_bus::RecordedBatch>| -> Vec<u64> {
        events.into_iter().map(|event| event.sequence).collect()
    };
    assert_eq!(
        sequences(trigger.recent(10, Undecodable::Fails).await.unwrap()),
        [other_end, second_at, last]
    );
    assert_eq!(
        sequences(trigger.recent(1, Undecodable::Fails).await.unwrap()),
        [other_end]
    );
    let ends = trigger
        .finals(None, before, Undecodable::Fails)
        .await
        .unwrap();
    assert_eq!(sequences(ends.clone()), [last, other_end]);
    let of_pool = trigger
        .finals(Some(&pool("gpu-80gb")), before, Undecodable::Fails)
        .await;
    assert_eq!(sequences(of_pool.unwrap()), [other_end]);
    let later = ends[1].stored_at;
    assert_eq!(
        sequences(
            trigger
                .finals(None, later, Undecodable::Fails)
                .await
                .unwrap()
        ),
        [other_end]
    );
}

/// Budgets rest on the ends of batches: one that is not known is not zero. Nothing else waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_end_that_no_version_can_decode_stops_budgets_alone() {
    let nats = Nats::for_services().await;
    let logs = Logs::of(&nats).await;
    let context = async_nats::jetstream::new(logs.client.clone());
    let garbage = async |subject: &'static str| {
        let stored = context.publish(subject, "garbage".into()).await.unwrap();
        stored.await.unwrap();
    };
    garbage("spotreel.batchlog.lost.1.settled").await;
    let settled = |batch: &mut Batch| {
        batch.status = Status::Settled;
        batch.instances = vec![spot_instance("i-1", "g6.xlarge", at(0))];
    };
    let batch = logs.request_as(&pool("default"), 1, settled).await;
    let unread = requested("unread", None);
    logs.batches.append(&unread, 0).await.unwrap();
    garbage("spotreel.batchlog.unread.1.launching").await;
    let began = Timestamp::UNIX_EPOCH;
    let log = &logs.batches;
    let finals = log.finals(None, began, Undecodable::IsPassedOver).await;
    let finals: Vec<_> = finals
        .unwrap()
        .into_iter()
        .map(|end| end.batch.id)
        .collect();
    assert_eq!(finals, std::slice::from_ref(&batch.id));
    let recent = log.recent(10, Undecodable::IsPassedOver).await.unwrap();
    let recent: Vec<_> = recent.into_iter().map(|one| one.batch.id).collect();
    assert_eq!(recent, [unread.id], "by the event before");
    for strict in [
        log.finals(None, began, Undecodable::Fails).await,
        log.recent(10, Undecodable::Fails).await,
    ] {
        assert!(
            matches!(strict, Err(ReadError::Decode { .. })),
            "{strict:?}"
        );
    }

    garbage("spotreel.log.t0.succeeded").await;
    let task = logs.submit("t1").await;
    let task = logs.started(&task).await;
    logs.succeeded(&task, "renders/t1/1.mp4").await;
    let ended = batches::ended_on(&logs.client, &batch, began)
        .await
        .unwrap();
    let ended: Vec<_> = ended
        .into_iter()
        .map(|end| end.task.id.to_string())
        .collect();
    assert_eq!(ended, ["t1"]);

    let page = logs.tasks.page(names::EVERY_SUBJECT, 1, 2).await.unwrap();
    assert_eq!(
        (page.events.len(), page.read_to, page.is_last),
        (1, Some(2), false)
    );
    let page = logs.tasks.page(names::EVERY_SUBJECT, 3, 2).await.unwrap();
    assert_eq!(
        (page.events.len(), page.read_to, page.is_last),
        (2, Some(4), false)
    );
    let page = logs.tasks.page(names::EVERY_SUBJECT, 5, 2).await.unwrap();
    assert_eq!((page.read_to, page.is_last), (None, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_writes_what_is_anothers() {
    let nats = Nats::for_services().await;
    let first = requested("default", None);
    let (trigger, fleet) = (nats.client("trigger").await, nats.client("fleet").await);
    let refused = [
        (&trigger, names::batchlog_event(&first.id, "settled")),
        (&trigger, "spotreel.log.t1.cancelled".into()),
        (&trigger, names::leader_key("fleet")),
        (&trigger, names::worker_drain("i-1")),
        (&trigger, names::worker_stay("i-1")),
        (&fleet, names::leader_key("trigger")),
        (&fleet, "$KV.spotreel-controls.run.default".into()),
        (&fleet, "spotreel.log.t1.cancelled".into()),
    ];
    let admin = nats.client("provision").await;
    let mut heard = admin.subscribe(">").await.unwrap();
    // A flush ends when the words are sent, not when the server has read them: what we hear ourselves say is proof.
    admin.publish("a.test.hears", "".into()).await.unwrap();
    heard.next().await.unwrap();
    for (client, subject) in refused {
        client.publish(subject, "harm".into()).await.unwrap();
    }
    // What one connection says is taken in order: after this nothing of it can be on its way.
    for (client, name) in [(&trigger, "trigger"), (&fleet, "fleet")] {
        let last = format!("$KV.spotreel-marks.leader.{name}");
        client.publish(last, "last".into()).await.unwrap();
    }
    let mut lasts = 0;
    while lasts < 2 {
        let message = heard.next().await.unwrap();
        assert_ne!(&message.payload[..], b"harm", "{}", message.subject);
        lasts += usize::from(&message.payload[..] == b"last");
    }
    // Clients may ask, operators may order.
    let (client, operator) = (nats.client("client").await, nats.client("operator").await);
    let mut orders = trigger.subscribe(names::OPS_RUN).await.unwrap();
    let mut questions = trigger.subscribe(names::WHY).await.unwrap();
    until("the service listens", async || {
        client
            .publish(names::OPS_RUN, "client".into())
            .await
            .unwrap();
        client.publish(names::WHY, "client".into()).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(100), questions.next());
        next.await.is_ok()
    })
    .await;
    operator
        .publish(names::OPS_RUN, "operator".into())
        .await
        .unwrap();
    let first = orders.next().await.unwrap();
    assert_eq!(&first.payload[..], b"operator");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_stays_until_it_is_taken_back() {
    let nats = Nats::for_services().await;
    let trigger = nats.client("trigger").await;
    let mut changes = controls::watch(&nats.client("fleet").await).await.unwrap();
    assert_eq!(controls::all(&trigger).await.unwrap(), Default::default());
    let (a, b) = (pool("a"), pool("b-2"));
    let hold = controls::HoldRecord {
        by: "ada".into(),
        reason: "maintenance".into(),
        since: at(0),
        config: None,
    };
    let run = |id: &str| controls::RunRecord {
        by: "ada".into(),
        at: at(1),
        id: id.into(),
        force: false,
    };
    until("the watch hears", async || {
        controls::hold(&trigger, &a, &hold).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(100), changes.next());
        next.await.is_ok()
    })
    .await;
    let first = controls::run(&trigger, &b, &run("1")).await.unwrap();
    let second = controls::run(&trigger, &b, &run("2")).await.unwrap();
    let all = controls::all(&trigger).await.unwrap();
    assert_eq!((&all.holds[&a].order, all.holds.len()), (&hold, 1));
    assert_eq!(all.runs[&b].order, run("2"));
    assert_eq!(all.runs[&b].revision, second);
    assert!(controls::remove_run(&trigger, &b, first).await.is_err());
    controls::remove_run(&trigger, &b, second).await.unwrap();
    controls::resume(&trigger, &a).await.unwrap();
    assert_eq!(controls::all(&trigger).await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_leads_and_another_follows_at_once_or_after_the_lease() {
    const LEASE: Duration = Duration::from_secs(2);
    let nats = Nats::for_services().await;
    let candidate = async |name: &str| {
        let client = nats.client("fleet").await;
        let one = Leadership::new(&client, "fleet", name).await;
        let (one, stop) = (Arc::new(one.with_lease(LEASE)), CancellationToken::new());
        let task = tokio::spawn({
            let (one, stop) = (one.clone(), stop.clone());
            async move { one.run(&stop).await }
        });
        (one, stop, task)
    };
    let (first, stop_first, first_task) = candidate("a").await;
    first.elected().await;
    let (second, _stop, second_task) = candidate("b").await;
    let (third, _stop, third_task) = candidate("c").await;
    assert!(!second.is_leader() && !third.is_leader());

    // Politely: it has resigned when it returns.
    stop_first.cancel();
    first_task.await.unwrap();
    assert!(!first.is_leader());
    tokio::select! {
        () = second.elected() => {}
        () = third.elected() => {}
    }
    assert_ne!(second.is_leader(), third.is_leader());
    // Without a word.
    let (dead, dead_task, heir) = match second.is_leader() {
        true => (second, second_task, third),
        false => (third, third_task, second),
    };
    dead_task.abort();
    heir.elected().await;
    assert!(!dead.is_leader(), "it knew before the lease was taken");
}
