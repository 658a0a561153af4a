//! Workers look into both lanes, and one is never served alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use spot::Stage;

/// One owner's long queue waits behind; another owner's tasks, submitted last, stand in front.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_front_comes_before_the_long_queue_behind_and_both_go_on() {
    const BEHIND: usize = 12;
    const IN_FRONT: usize = 8;
    let stage = Stage::set().await;
    let name = |lane: &str, number: usize| format!("{lane}{number:02}");
    for number in 0..BEHIND {
        let (id, model) = (name("behind", number), "ti2v-5B");
        let back = |task: &mut spotreel_domain::Task| task.back = true;
        stage.submit_as(&id, 2, model, "a red fox", back).await;
    }
    for number in 0..IN_FRONT {
        stage.submit(&name("front", number), 2).await;
    }
    let _worker = stage.worker("w1", 0, &[]);
    let ids: Vec<_> = (0..BEHIND)
        .map(|number| name("behind", number))
        .chain((0..IN_FRONT).map(|number| name("front", number)))
        .collect();
    let mut ends = Vec::new();
    for id in &ids {
        ends.push((stage.ended(id).await.at, id.as_str()));
    }
    ends.sort_unstable();
    let order: Vec<_> = ends.iter().map(|(_, id)| *id).collect();
    let last_in_front = order.iter().rposition(|id| id.starts_with("front"));
    let behind_by_then = last_in_front.unwrap() + 1 - IN_FRONT;
    assert!(
        behind_by_then > 0,
        "the lane behind waits for ever: {order:?}"
    );
    assert!(
        behind_by_then < BEHIND / 2,
        "the front is no front: {order:?}"
    );
}
