//! Fleet's happy path against moto, an AWS that nobody here wrote: from a batch that is asked for to a cloud that is
//! empty again. `make test-moto` runs it. moto's machines run nothing, so their workers are played by the test.

mod stage;

use spotreel_domain::batch::{InstanceState, Receipt, Status};
use spotreel_proto::worker::v1::State;
use stage::{ENV, Stage};

const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 0.45 }, { name = "g6.xlarge", cap = 0.40 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 5 }
patience = { moving = "200ms", calm = "500ms" }
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs moto: make test-moto"]
async fn a_batch_comes_works_and_leaves_nothing_on_moto() {
    let url = std::env::var("SPOTREEL_MOTO_URL").expect("tests/py/moto_server.sh sets it");
    let stage = Stage::over_moto(url, POOL).await;
    let workers = stage.workers.clone();
    let ids = stage.bring_up(&["a", "b", "c"]).await;
    for id in &ids {
        workers.come_up(id, State::Idle).await;
    }
    let all_serve = |batch: &spotreel_domain::batch::Batch| {
        let mut states = batch.instances.iter().map(|instance| &instance.state);
        states.all(|state| *state == InstanceState::Serving)
    };
    stage.until_batch("all serve", all_serve).await;
    for id in &ids {
        let hand = workers.take(id).await;
        workers.succeed(id, hand).await;
    }
    let batch = stage.until_status(&Status::Settled).await;
    assert_eq!(batch.tasks_done, 3);
    // moto's one price is a hundredth of a cent an hour.
    let receipt = Receipt::of(&batch, batch.ended_at.unwrap());
    let compute = receipt
        .lines
        .iter()
        .map(|line| line.charges.compute.micros());
    assert!(compute.sum::<i64>() <= 3);
    let left = stage.ec2.list(ENV).await.unwrap().instances;
    assert!(left.iter().all(|seen| !seen.is_alive()), "{left:?}");
}
