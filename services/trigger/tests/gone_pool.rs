//! A batch that still runs while its pool is not in pools.toml any more.

mod stage;

use spotreel_bootstrap::ambient;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, Instance};
use spotreel_domain::trigger::BlockerKind;
use spotreel_test_kit::{pool, spot_instance};
use stage::{Stage, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_it_spends_counts_and_why_names_it() {
    let stage = Stage::set().await;
    let spent = |batch: &mut Batch| {
        batch.instances.push(Instance {
            cost: Usd::from_cents(300),
            ..spot_instance("i-1", "g6.xlarge", ambient::now())
        });
    };
    stage.root.request_as(&pool("renamed"), 1, spent).await;
    let rules = "length = { at_least = 1 }\nbudgets = { per_day = 3 }";
    let _trigger = stage.start(&stage.one_pool(rules)).await;
    stage.submit(1).await;
    let why = stage.until_blocked(BlockerKind::Budget).await;
    assert!(why.view.spend.today >= Usd::from_cents(300));
    assert_eq!(why.view.active_batch, None);
    until("why names it", async || {
        stage.why().await.gone == ["renamed-1"]
    })
    .await;
}
