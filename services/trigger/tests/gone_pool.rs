//! A batch that still runs while its pool is not in pools.toml any more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod stage;

use std::time::Duration;

use spotreel_bootstrap::ambient;
use spotreel_domain::Usd;
use spotreel_domain::batch::{Batch, Instance, PoolName, Wanted};
use spotreel_domain::fleet::cloud::{Lifecycle, Place};
use spotreel_domain::trigger::BlockerKind;
use stage::{Stage, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_it_spends_counts_and_why_names_it() {
    let stage = Stage::set().await;
    let pool = PoolName::parse("renamed").unwrap();
    let now = ambient::now();
    let wanted = Wanted {
        rule: "length".into(),
        why: "a test wants it".into(),
        units: 1,
        slot: None,
        deadline: now + Duration::from_secs(3_600),
    };
    let mut gone = Batch::request(&pool, None, wanted, now).unwrap();
    let place = Place {
        kind: "g6.xlarge".into(),
        zone: stage::ZONE.into(),
    };
    gone.instances.push(Instance {
        cost: Usd::from_cents(300),
        ready_at: Some(now),
        ..Instance::bought(
            "i-1".into(),
            place,
            Lifecycle::Spot,
            1,
            now,
            Usd::from_cents(30),
        )
    });
    stage.root.batches.append(&gone, 0).await.unwrap();
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
