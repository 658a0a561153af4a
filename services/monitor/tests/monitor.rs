//! The counts, the history and the deadlines, against a real server and a real store.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::time::Duration;

use spotreel_bootstrap::{Config, Context, ambient};
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::names::{
    CONSUMER_JANITOR, CONSUMER_NOTIFIER, MARKS_BUCKET, TASKS, work_consumer,
};
use spotreel_bus::{AppendError, LogRoom, Queue};
use spotreel_domain::task::State;
use spotreel_domain::{Event, Lane, Model, Priority, Task};
use spotreel_localcloud::TestCloud;
use spotreel_monitor::janitor::Janitor;
use spotreel_monitor::net::Net;
use spotreel_monitor::{DEFAULTS, Deps, Handled, MonitorConfig, reconcile};
use spotreel_s3::{Keys, Store, StoreConfig};
use spotreel_test_kit::{Logs, Nats, Written, context, failing, stop, tasks, until};

const SOON: Duration = Duration::from_millis(200);

/// The defaults, with little patience.
fn config() -> MonitorConfig {
    let mut config: MonitorConfig = toml::from_str(DEFAULTS).unwrap();
    config.validate().unwrap();
    config.inbox.retry_after = SOON;
    config.inbox.pull_wait = Duration::from_millis(500);
    config.sweeper.mark_every = SOON;
    config.janitor.grace = SOON;
    config.net.every = SOON;
    config.net.patience = SOON;
    config.reconcile.every = SOON;
    config
}

struct System {
    nats: Nats,
    hand: Logs,
    store: Store,
    _cloud: TestCloud,
}

impl System {
    async fn start() -> Self {
        Self::over(Nats::for_services().await).await
    }

    async fn with_a_small_log() -> Self {
        let nats = Nats::start().await;
        let layout = spotreel_bus::provision::Layout {
            tasks_max_bytes: 100_000,
            ..Default::default()
        };
        nats.provision(&layout).await;
        Self::over(nats).await
    }

    async fn over(nats: Nats) -> Self {
        let hand = Logs::of(&nats).await;
        let cloud = TestCloud::start().await;
        let at = StoreConfig {
            endpoint_url: Some(cloud.endpoint_url()),
            force_path_style: true,
            ..config().s3
        };
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&at, keys).await;
        store.create_bucket_if_missing().await.unwrap();
        Self {
            nats,
            hand,
            store,
            _cloud: cloud,
        }
    }

    /// Runs monitor as its own user, until it is told to stop or the test ends.
    async fn monitor(&self, config: MonitorConfig) -> Context {
        let ctx = context("monitor");
        let deps = Deps {
            nats: self.nats.client("monitor").await,
            store: self.store.clone(),
        };
        spotreel_monitor::start(config, deps, ctx.clone())
            .await
            .unwrap();
        ctx
    }

    fn janitor(&self, config: MonitorConfig) -> std::sync::Arc<Janitor> {
        let (log, store) = (self.hand.tasks.clone(), self.store.clone());
        Janitor::new(log, store, config.janitor, SOON).into()
    }

    async fn work(&self) -> Queue {
        let name = work_consumer(Model::Ti2v5b, Lane::front(Priority::Normal));
        Queue::open(&self.nats.client("worker").await, TASKS, &name)
            .await
            .unwrap()
    }

    /// What the queue counts: waiting, and in a worker's hands.
    async fn length(&self) -> u64 {
        let name = work_consumer(Model::Ti2v5b, Lane::front(Priority::Normal));
        let info = reconcile::consumer(&self.hand.client, &name).await.unwrap();
        info.num_pending + info.num_ack_pending as u64
    }

    async fn room(&self) -> LogRoom {
        LogRoom::of_log(&self.hand.client).await.unwrap()
    }

    async fn last(&self, task: &Written) -> spotreel_bus::Recorded {
        let last = self.hand.tasks.last(&task.task.id).await.unwrap();
        last.expect("the task is in the log")
    }

    /// Everything that was written has been told to clients.
    async fn all_notified(&self) {
        let queue = Queue::open(
            &self.nats.client("notifier").await,
            TASKS,
            CONSUMER_NOTIFIER,
        )
        .await
        .unwrap();
        while let Some(delivery) = queue.pull(Duration::ZERO).await.unwrap() {
            delivery.ack().await.unwrap();
        }
    }

    async fn put(&self, key: &str) {
        let bytes = key.to_owned().into_bytes().into();
        self.store
            .put_bytes(key, bytes, "video/mp4", true, Default::default())
            .await
            .unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        self.store
            .list("")
            .await
            .unwrap()
            .into_iter()
            .map(|listed| listed.key)
            .collect()
    }

    async fn events(&self, task: &Written) -> Vec<Event> {
        self.hand
            .tasks
            .history(&task.task.id)
            .await
            .unwrap()
            .iter()
            .map(|event| event.event)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_become_the_runnable_tasks_with_nobody_pulling() {
    let system = System::start().await;
    let hand = &system.hand;
    let work = system.work().await;
    // Rendered to its end, and the worker died before its ack.
    let done = hand.submit("done").await;
    let held = work.pull(Duration::from_secs(2)).await.unwrap().unwrap();
    assert_eq!(held.sequence, done.sequence);
    let done = hand.started(&done).await;
    hand.succeeded(&done, "renders/done/2.mp4").await;
    // Failed without an ack, then retried by a person: two entries, one of them live.
    let twice = hand.submit("twice").await;
    let held = work.pull(Duration::from_secs(2)).await.unwrap().unwrap();
    assert_eq!(held.sequence, twice.sequence);
    let twice = hand.failed(&hand.started(&twice).await).await;
    let twice = hand.requeued(&twice).await;
    // Cancelled while it waited, and intake died before it deleted the entry.
    let cancelled = hand.submit("cancelled").await;
    hand.cancelled(&cancelled).await;
    // Runnable: this one, and the second round of the one before.
    let waiting = hand.submit("waiting").await;
    assert_eq!(system.length().await, 5);

    let ctx = system.monitor(config()).await;
    until("two are left", async || system.length().await == 2).await;
    until("the mark says so", async || {
        let bucket = async_nats::jetstream::new(hand.client.clone())
            .get_key_value(MARKS_BUCKET)
            .await
            .unwrap();
        let Some(mark) = bucket.get("sweeper").await.unwrap() else {
            return false;
        };
        let mark: serde_json::Value = serde_json::from_slice(&mark).unwrap();
        mark["log_sequence"].as_u64().unwrap() >= waiting.sequence && mark["at"].is_string()
    })
    .await;
    assert_eq!(system.length().await, 2);
    let next = work.pull(Duration::ZERO).await.unwrap().unwrap();
    let other = work.pull(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(
        (next.sequence, other.sequence),
        (twice.sequence, waiting.sequence)
    );
    assert!(work.pull(Duration::ZERO).await.unwrap().is_none());
    until("monitor is ready", async || ctx.health.readiness().ready).await;
    stop(&ctx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_finished_task_the_end_the_named_video_and_its_poster_stay() {
    let system = System::start().await;
    let hand = &system.hand;
    let task = hand.submit("t1").await;
    let live = hand.submit("t2").await;
    let task = hand
        .succeeded(&hand.started(&task).await, "renders/t1/3.mp4")
        .await;
    for key in [
        "renders/t1/3.mp4",
        "renders/t1/3.jpg",
        "renders/t1/1.mp4",
        "renders/t1/1.jpg",
        "checkpoints/t1/3/10",
        "checkpoints/t2/9/10",
        "renders/t10/1.mp4",
    ] {
        system.put(key).await;
    }
    let _ctx = system.monitor(config()).await;
    // Not before notifier has heard it all.
    until("the entry is swept", async || system.length().await == 1).await;
    assert!(system.events(&task).await.contains(&Event::Started));
    system.all_notified().await;
    until("only the end is left", async || {
        system.events(&task).await == [Event::Succeeded]
    })
    .await;
    until("only the named video and its poster are left", async || {
        system.keys().await
            == [
                "checkpoints/t2/9/10",
                "renders/t1/3.jpg",
                "renders/t1/3.mp4",
                "renders/t10/1.mp4",
            ]
    })
    .await;
    until("the janitor is done", async || {
        let info = reconcile::consumer(&hand.client, "janitor").await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    assert_eq!(system.events(&live).await, [Event::Queued]);
    // The id is taken: a submission of it finds the end.
    let last = hand.tasks.last(&task.task.id).await.unwrap().unwrap();
    assert_eq!(
        (last.event, last.sequence),
        (Event::Succeeded, task.sequence)
    );
    let again = Task::submit(
        task.task.id.clone(),
        task.task.spec.clone(),
        task.task.content_hash.clone(),
        ambient::now(),
    );
    let again = spotreel_bus::log::Append::new(again, 0, ambient::uuid_v4());
    assert!(matches!(
        hand.tasks.append(&again).await,
        Err(AppendError::Conflict(Some(_)))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_janitor_leaves_a_new_round_alone_and_waits_out_the_grace() {
    let system = System::start().await;
    let hand = &system.hand;
    let first = hand.submit("t1").await;
    let first = hand.failed(&hand.started(&first).await).await;
    system.put("checkpoints/t1/2/10").await;
    let end = hand.tasks.last(&first.task.id).await.unwrap().unwrap();

    // Redelivered early, as after a restart of the server: it waits for the rest.
    let mut patient = config();
    patient.janitor.grace = Duration::from_secs(600);
    let verdict = system.janitor(patient).handle(end.clone()).await.unwrap();
    assert!(matches!(verdict, Handled::Later(rest) if rest > Duration::from_secs(500)));

    hand.requeued(&first).await;
    let mut hasty = config();
    hasty.janitor.grace = Duration::ZERO;
    assert_eq!(
        system.janitor(hasty).handle(end).await.unwrap(),
        Handled::Done
    );
    let kept = [Event::Queued, Event::Started, Event::Failed, Event::Queued];
    assert_eq!(system.events(&first).await, kept);
    assert_eq!(system.keys().await, ["checkpoints/t1/2/10"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn old_ends_go_and_free_the_id() {
    let system = System::start().await;
    let hand = &system.hand;
    let old = hand.submit("old").await;
    hand.cancelled(&old).await;
    let live = hand.submit("live").await;
    let _ctx = system.monitor(config()).await;
    system.all_notified().await;
    until("only the end is left", async || {
        system.events(&old).await == [Event::Cancelled]
    })
    .await;
    let janitor = system.janitor(config());
    assert_eq!(janitor.remove_old_once(ambient::now()).await.unwrap(), 0);
    let month = Duration::from_secs(31 * 24 * 3600);
    until("the end goes", async || {
        janitor
            .remove_old_once(ambient::now() + month)
            .await
            .unwrap()
            == 1
    })
    .await;
    assert!(hand.tasks.last(&old.task.id).await.unwrap().is_none());
    assert_eq!(system.events(&live).await, [Event::Queued]);
    hand.submit("old").await;
}

/// What no version can decode stays where it is. It keeps nothing else in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_that_cannot_be_decoded_keep_no_other_task_in_the_log() {
    let system = System::start().await;
    let hand = &system.hand;
    let context = async_nats::jetstream::new(hand.client.clone());
    let garbage = async |subject: &'static str| {
        let stored = context.publish(subject, "garbage".into()).await.unwrap();
        stored.await.unwrap().sequence
    };
    // One with a gap in its history, and one whose end came before.
    let mut gap = hand.submit("gap").await;
    gap.sequence = garbage("spotreel.log.gap.started").await;
    hand.cancelled(&gap).await;
    let lost = hand.submit("lost").await;
    hand.cancelled(&lost).await;
    garbage("spotreel.log.lost.queued.ti2v-5B.0").await;
    let old = hand.submit("old").await;
    hand.cancelled(&old).await;
    let ctx = system.monitor(config()).await;
    system.all_notified().await;
    until("only the end is left", async || {
        system.events(&old).await == [Event::Cancelled]
    })
    .await;
    until("the janitor is done with all", async || {
        let info = reconcile::consumer(&hand.client, CONSUMER_JANITOR).await;
        let info = info.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    let janitor = system.janitor(config());
    let later = ambient::now() + Duration::from_secs(31 * 24 * 3_600);
    until("the end goes", async || {
        janitor.remove_old_once(later).await.unwrap() == 1
    })
    .await;
    assert!(hand.tasks.last(&old.task.id).await.unwrap().is_none());
    assert!(hand.tasks.last(&gap.task.id).await.unwrap().is_some());
    let net = Net::new(hand.tasks.clone(), config().net);
    assert_eq!(net.look(&janitor).await.unwrap(), 0);
    assert!(failing(&ctx, "consumer janitor").is_none());
    stop(&ctx).await;
}

/// Clients must leave more time than that.
async fn expiring(hand: &Logs, id: &str, rest: Duration) -> Written {
    let deadline = ambient::now() + rest;
    let request = tasks::request(Model::Ti2v5b);
    let change = |task: &mut Task| task.spec.expires_at = Some(deadline);
    hand.submit_as(id, &request, change).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deadlines_end_what_waits_and_what_is_rendered() {
    let system = System::start().await;
    let hand = &system.hand;
    let soon = Duration::from_secs(2);
    let waits = expiring(hand, "waits", soon).await;
    let renders = expiring(hand, "renders", soon).await;
    hand.started(&renders).await;
    let succeeds = expiring(hand, "succeeds", soon).await;
    let succeeds = hand
        .succeeded(&hand.started(&succeeds).await, "renders/succeeds/1.mp4")
        .await;
    // Its first round was to end soon; the second has no deadline any more.
    let past = expiring(hand, "past", Duration::from_millis(1)).await;
    let deadline = past.task.spec.expires_at.unwrap();
    until("its deadline passes", async || ambient::now() > deadline).await;
    let past = hand.requeued(&hand.cancelled(&past).await).await;
    let later = expiring(hand, "later", Duration::from_secs(3600)).await;
    let _ctx = system.monitor(config()).await;

    let state = async |task: &Written| hand.tasks.last(&task.task.id).await.unwrap().unwrap();
    until("both are expired", async || {
        state(&waits).await.event == Event::Expired && state(&renders).await.event == Event::Expired
    })
    .await;
    assert!(state(&renders).await.task.running().is_none());
    until("two are left", async || system.length().await == 2).await;
    until("the far deadline waits", async || {
        let info = reconcile::consumer(&hand.client, "deadlines")
            .await
            .unwrap();
        info.num_pending == 0 && info.num_ack_pending == 1
    })
    .await;
    assert_eq!(state(&succeeds).await.sequence, succeeds.sequence);
    assert_eq!(state(&past).await.sequence, past.sequence);
    assert!(matches!(
        state(&later).await.task.state,
        State::Queued { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_an_ids_second_life_deletes_nothing_of_the_first() {
    let system = System::start().await;
    let hand = &system.hand;
    let first = hand.submit("t1").await;
    let first = hand.cancelled(&first).await;
    for event in hand.tasks.history(&first.task.id).await.unwrap() {
        hand.tasks.delete(event.sequence).await.unwrap();
    }
    // The id is free, and its first owner still has his video and a checkpoint.
    let theirs = ["checkpoints/t1/1/00010-2.ckpt", "renders/t1/1/2.mp4"];
    let second = hand.submit("t1").await;
    let entry = second.sequence;
    let named = format!("renders/t1/{entry}/{}.mp4", entry + 1);
    let surplus = format!("checkpoints/t1/{entry}/00010-{}.ckpt", entry + 1);
    for key in theirs.into_iter().chain([named.as_str(), &surplus]) {
        system.put(key).await;
    }
    hand.succeeded(&hand.started(&second).await, &named).await;
    system.all_notified().await;
    let _ctx = system.monitor(config()).await;
    let all = || async { system.keys().await };
    until("what the second life left over is gone", async || {
        !all().await.contains(&surplus)
    })
    .await;
    until("the janitor is done", async || {
        let info = reconcile::consumer(&hand.client, "janitor").await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    let mut left = [theirs[0], theirs[1], &named];
    left.sort_unstable();
    assert_eq!(all().await, left);
}

/// What a program of a newer version writes: well-formed, and with a state that this version does not know.
async fn newer(hand: &Logs, subject: &str) -> u64 {
    let context = async_nats::jetstream::new(hand.client.clone());
    let stored = context.publish(subject.to_owned(), "".into()).await;
    stored.unwrap().await.unwrap().sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_of_a_newer_version_is_held_and_what_it_stands_for_is_kept() {
    let system = System::start().await;
    let hand = &system.hand;
    // Its history holds an event that this version cannot read.
    let mut task = hand.submit("t2").await;
    task.sequence = newer(hand, "spotreel.log.t2.started").await;
    let ended = hand.cancelled(&task).await;
    let end = newer(hand, "spotreel.log.t1.failed").await;
    system.put("checkpoints/t2/9/10").await;
    system.all_notified().await;
    let ctx = system.monitor(config()).await;
    let says = |consumer: &str, subject: &str| {
        failing(&ctx, &format!("consumer {consumer}"))
            .is_some_and(|reason| reason.contains("newer version") && reason.contains(subject))
    };
    until("the sweeper says that it is too old", async || {
        says("sweeper", "spotreel.log.t1.failed")
    })
    .await;
    until("and so does the janitor", async || {
        says("janitor", "spotreel.log.t1.failed")
    })
    .await;
    // The janitor leaves the task's history alone as long as the ledger cannot read it.
    until("and so does the ledger", async || {
        let held = ["spotreel.log.t2.started", "spotreel.log.t1.failed"];
        held.into_iter().any(|subject| says("ledger", subject))
    })
    .await;
    // What is readable behind it is done, and what is not is not acked.
    until("the entry that ended is swept", async || {
        system.length().await == 0
    })
    .await;
    for (consumer, held) in [("sweeper", 1), ("janitor", 2), ("ledger", 2)] {
        let info = reconcile::consumer(&hand.client, consumer).await.unwrap();
        assert_eq!(info.num_ack_pending, held, "{consumer}");
        assert!(info.ack_floor.stream_sequence < end, "{consumer}");
    }
    assert_eq!(system.keys().await, ["checkpoints/t2/9/10"]);
    let last = hand.tasks.last(&ended.task.id).await.unwrap().unwrap();
    assert_eq!(last.sequence, ended.sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_whose_work_item_is_gone_is_queued_again() {
    let system = System::start().await;
    let hand = &system.hand;
    let work = system.work().await;
    // Acked before its end while it waited, and while a worker rendered that is no more.
    let waiting = hand.submit("waiting").await;
    let rendered = hand.submit("rendered").await;
    let held = [work.pull(SOON).await, work.pull(SOON).await];
    let rendered = hand.started(&rendered).await;
    // In the log no more.
    let deleted = hand.started(&hand.submit("deleted").await).await;
    hand.tasks.delete(deleted.task.entry).await.unwrap();
    // Handed back, to be delivered again later: this one is well.
    let delayed = hand.submit("delayed").await;
    let back = work.pull(SOON).await.unwrap().unwrap();
    assert_eq!(back.sequence, delayed.sequence);
    back.nak(Duration::from_secs(600)).await.unwrap();
    for delivery in held {
        delivery.unwrap().unwrap().ack().await.unwrap();
    }
    let fresh = hand.submit("fresh").await;

    let ctx = system.monitor(config()).await;
    let lost = [&waiting, &rendered, &deleted];
    until("all three are queued again", async || {
        for task in lost {
            if system.last(task).await.event != Event::Queued
                || system.last(task).await.sequence == task.sequence
            {
                return false;
            }
        }
        true
    })
    .await;
    until("their old items are swept", async || {
        system.length().await == 5
    })
    .await;
    stop(&ctx).await;
    for task in lost {
        let last = system.last(task).await;
        let now = last.task;
        assert_eq!(
            (now.entry, now.previous_entry),
            (last.sequence, task.task.entry)
        );
        assert_eq!((now.round, now.failures, now.lost_in_row), (1, 0, 0));
        assert_eq!(now.start, task.task.start);
        assert!(now.running().is_none());
    }
    for task in [&delayed, &fresh] {
        assert_eq!(system.last(task).await.sequence, task.sequence);
    }
    // They can be had: by four pulls, for the delayed one is not due.
    let mut delivered = Vec::new();
    while let Some(delivery) = work.pull(Duration::ZERO).await.unwrap() {
        delivered.push(delivery.recorded().unwrap().task.id.to_string());
    }
    delivered.sort();
    assert_eq!(delivered, ["deleted", "fresh", "rendered", "waiting"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_a_live_worker_renders_is_left_to_it_without_its_item() {
    let system = System::start().await;
    let hand = &system.hand;
    let task = hand.started(&hand.submit("t1").await).await;
    hand.tasks.delete(task.task.entry).await.unwrap();
    let mut presence = spotreel_bus::kv::presences(&hand.client).await.unwrap();
    assert!(presence.is_empty());
    presence.push(spotreel_proto::worker::v1::Presence {
        worker: "w1".into(),
        task: "t1".into(),
        ..Default::default()
    });
    spotreel_bus::kv::put_presence(&hand.client, &presence[0])
        .await
        .unwrap();
    let mut hasty = config();
    hasty.net.patience = Duration::ZERO;
    let net = Net::new(hand.tasks.clone(), hasty.net.clone());
    let janitor = system.janitor(hasty);
    assert_eq!(net.look(&janitor).await.unwrap(), 0);
    spotreel_bus::kv::remove_presence(&hand.client, "w1")
        .await
        .unwrap();
    assert_eq!(net.look(&janitor).await.unwrap(), 1);
    assert_eq!(net.look(&janitor).await.unwrap(), 0);
    assert_eq!(system.last(&task).await.task.start, task.sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_task_that_goes_on_entry_start_and_last_event_stay() {
    let system = System::start().await;
    let hand = &system.hand;
    let mut task = hand.submit("t1").await;
    for _ in 0..10 {
        task = hand.interrupted(&hand.started(&task).await).await;
    }
    let (queued, start) = (task.task.entry, task.task.start);
    let ctx = system.monitor(config()).await;
    // Two passes of the net, at least, while notifier has heard nothing.
    let waits = hand.started(&hand.submit("t2").await).await;
    hand.tasks.delete(waits.task.entry).await.unwrap();
    until("a pass was made", async || {
        system.last(&waits).await.event == Event::Queued
    })
    .await;
    assert_eq!(system.events(&task).await.len(), 21);
    system.all_notified().await;
    until("the rest is gone", async || {
        system.events(&task).await == [Event::Queued, Event::Started, Event::Interrupted]
    })
    .await;
    let left = hand.tasks.history(&task.task.id).await.unwrap();
    let left: Vec<_> = left.iter().map(|event| event.sequence).collect();
    assert_eq!(left, [queued, start, task.sequence]);
    ctx.stopping.cancel();
    // It goes on, and its attempts are known.
    let task = hand.started(&task).await;
    assert_eq!(task.task.attempts_total, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_fills_up_loses_its_oldest_finished_tasks_first() {
    let system = System::with_a_small_log().await;
    let hand = &system.hand;
    let full = async || system.room().await.used_percent();
    let live = hand.submit("live").await;
    let mut ended = Vec::new();
    while full().await < 75 {
        let task = hand.submit(&format!("t{}", ended.len())).await;
        hand.cancelled(&task).await;
        hand.tasks.delete(task.sequence).await.unwrap();
        ended.push(task);
    }
    let mut config = config();
    config.janitor.room_every = SOON;
    let _ctx = system.monitor(config).await;
    system.all_notified().await;
    until("there is room, of the oldest", async || {
        let mut there = Vec::new();
        for task in &ended {
            there.push(hand.tasks.last(&task.task.id).await.unwrap().is_some());
        }
        let gone = there.iter().filter(|there| !**there).count();
        assert!(gone < ended.len() / 2, "no more than is needed: {there:?}");
        full().await < 68 && there[gone..].iter().all(|there| *there)
    })
    .await;
    assert_eq!(system.events(&live).await, [Event::Queued]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_log_that_is_nearly_full_no_task_is_queued_again() {
    let system = System::with_a_small_log().await;
    let hand = &system.hand;
    let task = hand.started(&hand.submit("t1").await).await;
    hand.tasks.delete(task.task.entry).await.unwrap();
    let mut others = Vec::new();
    while !system.room().await.is_used_to(ENDS_ONLY_PERCENT) {
        let id = format!("other-{}", others.len());
        others.push(hand.submit(&id).await);
    }
    let mut hasty = config();
    hasty.net.patience = Duration::ZERO;
    let net = Net::new(hand.tasks.clone(), hasty.net.clone());
    let janitor = system.janitor(hasty);
    assert_eq!(net.look(&janitor).await.unwrap(), 0);
    for other in others {
        hand.tasks.delete(other.sequence).await.unwrap();
    }
    assert_eq!(net.look(&janitor).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn not_ready_while_nothing_can_be_stored() {
    let system = System::start().await;
    let ctx = system.monitor(config()).await;
    let mark = || ctx.health.readiness().checks.get("sweeper's mark").cloned();
    until("the mark is stored", async || {
        mark().is_some_and(|check| check.ok)
    })
    .await;
    async_nats::jetstream::new(system.hand.client.clone())
        .delete_stream(format!("KV_{MARKS_BUCKET}"))
        .await
        .unwrap();
    until("it cannot be stored", async || {
        mark().is_some_and(|check| !check.ok)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn not_ready_without_its_consumers() {
    let system = System::start().await;
    let stream = async_nats::jetstream::new(system.hand.client.clone())
        .get_stream(TASKS)
        .await
        .unwrap();
    stream.delete_consumer("janitor").await.unwrap();
    let ctx = system.monitor(config()).await;
    until("the others are there", async || {
        let checks = ctx.health.readiness().checks;
        checks["consumer sweeper"].ok
            && checks["consumer deadlines"].ok
            && !checks["consumer janitor"].ok
    })
    .await;
    let why = ctx.health.readiness().checks["consumer janitor"]
        .reason
        .clone()
        .unwrap();
    assert!(why.contains("spotreel provision"), "{why}");
    assert!(stream.consumer_info("janitor").await.is_err());
}
