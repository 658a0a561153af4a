//! Many events at once: published together, each task in its order, whatever fails in between.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::time::Duration;

use spotreel_bus::events::EventStream;
use spotreel_bus::provision::Layout;
use spotreel_domain::{Model, TaskId};
use spotreel_test_kit::{always, provisioned_before_alarms, tasks, until};

use scene::{Scene, assert_once_in_order};

/// Longer than a notifier waits before it looks again at what it could not publish.
const SEVERAL_LOOKS: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_is_published_in_groups() {
    let scene = Scene::set().await;
    let tasks: Vec<String> = (0..1_500).map(|number| format!("t{number}")).collect();
    scene.submit_all(&tasks).await;
    let running = scene.run().await;
    scene.all_told(1_500).await;
    let told = scene.told().await;
    assert_once_in_order(&told, 1..=1_500);
    let grouped = told.iter().filter(|event| event.place_in_batch > 1);
    assert!(grouped.count() > 1_000, "published one by one");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_events_of_one_task_in_one_group_keep_their_order() {
    let scene = Scene::set().await;
    let mut task = scene.logs.submit("t0").await;
    for number in 1..=30 {
        scene.logs.submit(&format!("t{number}")).await;
        task = scene.logs.started(&task).await;
        task = scene.logs.interrupted(&task).await;
    }
    let _running = scene.run().await;
    scene.all_told(91).await;
    assert_once_in_order(&scene.told().await, 1..=91);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_event_that_is_refused_holds_up_its_own_task_alone() {
    let scene = Scene::set().await;
    let limit = async |bytes| {
        let mut config = scene.events().await.cached_info().config.clone();
        config.max_message_size = bytes;
        let context = async_nats::jetstream::new(scene.logs.client.clone());
        context.update_stream(config).await.unwrap();
    };
    limit(4_000).await;
    for number in 0..10 {
        scene.logs.submit(&format!("before-{number}")).await;
    }
    let mut request = tasks::request(Model::Ti2v5b);
    request.prompt = "long ".repeat(400);
    request.negative_prompt = Some("wide ".repeat(400));
    let large = scene.logs.submit_as("large", &request, |_| {}).await;
    for number in 0..10 {
        scene.logs.submit(&format!("behind-{number}")).await;
    }
    scene.logs.cancelled(&large).await;
    let _running = scene.run().await;
    scene.all_told(20).await;
    always("the later event waits", SEVERAL_LOOKS, || async {
        scene.told().await.len() == 20
    })
    .await;
    limit(-1).await;
    scene.all_told(22).await;
    assert_once_in_order(&scene.told().await, 1..=22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_event_waits_for_the_earlier_one_that_another_notifier_holds() {
    let scene = Scene::set().await;
    let task = scene.logs.submit("t1").await;
    let held = scene.pull().await;
    scene.logs.started(&task).await;
    scene.logs.submit("t2").await;
    let _running = scene.run().await;
    scene.all_told(1).await;
    always("the later event waits", SEVERAL_LOOKS, || async {
        held.in_progress().await;
        scene.subjects().await == ["spotreel.task.t2.queued"]
    })
    .await;
    held.nak(Duration::ZERO).await.unwrap();
    scene.all_told(3).await;
    assert_once_in_order(&scene.told().await, 1..=3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_that_come_again_in_another_order_are_told_in_theirs() {
    let scene = Scene::set().await;
    let task = scene.logs.submit("t1").await;
    scene.logs.cancelled(&scene.logs.started(&task).await).await;
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(scene.pull().await);
    }
    for delivery in deliveries.iter().rev() {
        delivery.nak(Duration::ZERO).await.unwrap();
    }
    let _running = scene.run().await;
    scene.all_told(3).await;
    assert_once_in_order(&scene.told().await, 1..=3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_work_item_that_left_the_log_is_told_before_the_start() {
    let scene = Scene::set().await;
    for id in ["t1", "t2"] {
        let task = scene.logs.submit(id).await;
        scene.logs.started(&task).await;
        scene.logs.tasks.delete(task.sequence).await.unwrap();
    }
    let _running = scene.run().await;
    scene.all_told(4).await;
    assert_once_in_order(&scene.told().await, 1..=4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_events_has_forgotten_is_not_told_again() {
    let scene = Scene::set().await;
    let _running = scene.run().await;
    let task = scene.logs.submit("t1").await;
    let task = scene.logs.failed(&scene.logs.started(&task).await).await;
    scene.all_told(3).await;
    scene.events().await.purge().await.unwrap();
    scene.logs.requeued(&task).await;
    scene.all_told(1).await;
    always("nothing else is told", SEVERAL_LOOKS, || async {
        scene.subjects().await == ["spotreel.task.t1.queued"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_goes_on_where_another_notifier_has_told_some_of_it() {
    let scene = Scene::set().await;
    for number in 0..20 {
        scene.logs.submit(&format!("t{number}")).await;
    }
    // A refused submission of the same name is a public event of the task too.
    let events = EventStream::open(&scene.logs.client).await;
    let id = TaskId::parse("t3").unwrap();
    assert!(events.reject(Some(&id), 7, "{}".into()).await.unwrap());
    for number in [5, 11] {
        let last = scene.logs.last(&format!("t{number}")).await;
        let (id, sequence) = (&last.task.id, last.sequence);
        let told = events.publish(id, "queued", sequence, Default::default(), "{}".into());
        assert!(told.await.unwrap());
    }
    let _running = scene.run().await;
    scene.all_told(21).await;
    let mut told = scene.told().await;
    told.retain(|event| !event.subject.ends_with("rejected"));
    assert_once_in_order(&told, 1..=20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_event_is_told_once_in_order_while_notifiers_and_the_server_crash() {
    let mut scene = Scene::set().await;
    let mut expected = 0;
    for round in 0..6 {
        let (one, other) = (scene.run().await, scene.run().await);
        let burst: Vec<_> = (0..300)
            .map(|number| format!("b{round}-{number}"))
            .collect();
        scene.submit_all(&burst).await;
        for number in 0..20 {
            let task = scene.logs.submit(&format!("t{round}-{number}")).await;
            scene.logs.cancelled(&scene.logs.started(&task).await).await;
        }
        expected += 300 + 3 * 20;
        // In the middle of what they do.
        match round % 3 {
            0 => one.kill().await,
            1 => scene.nats.crash().await,
            _ => one.stop().await,
        }
        let last = scene.logs.submit(&format!("last-{round}")).await;
        scene.logs.cancelled(&last).await;
        expected += 2;
        other.kill().await;
    }
    let _last = scene.run().await;
    scene.all_told(expected).await;
    assert_once_in_order(&scene.told().await, 1..=expected);
    until("everything is acked", async || scene.unacked().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_an_upgrade_what_an_older_notifier_left_is_told_once_in_order() {
    let nats = provisioned_before_alarms().await;
    let scene = Scene::over(nats).await;
    let task = scene.logs.submit("t0").await;
    scene.logs.cancelled(&scene.logs.started(&task).await).await;
    for number in 1..30 {
        scene.logs.submit(&format!("t{number}")).await;
    }
    // One at a time, and killed between its publish and its ack.
    let events = EventStream::open(&scene.logs.client).await;
    let id = TaskId::parse("t0").unwrap();
    for (sequence, event) in [(1, "queued"), (2, "started")] {
        let delivery = scene.pull().await;
        let told = events.publish(&id, event, sequence, Default::default(), "{}".into());
        assert!(told.await.unwrap());
        if sequence == 1 {
            delivery.ack().await.unwrap();
        }
    }
    scene.nats.provision(&Layout::default()).await;
    let _running = scene.run().await;
    scene.all_told(32).await;
    let told = scene.told().await;
    assert_once_in_order(&told, 1..=32);
    assert!(told.iter().any(|event| event.place_in_batch > 1));
    until("everything is acked", async || scene.unacked().await == 0).await;
}
