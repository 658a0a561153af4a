//! Launches that EC2 refuses: what passes by itself is waited for, what only a person can mend is said where people look.

mod stage;

use spotreel_domain::batch::{Batch, BlockedBy};
use spotreel_domain::fleet::cloud::{Lifecycle, tag};
use spotreel_localcloud::{Action, Rule};
use spotreel_proto::worker::v1::State;
use stage::{ENV, Stage, failing, template_of_spot, until};

/// Two zones are left where one is not to be had, and refusals wait for a moment only.
const POOL: &str = r#"
models = ["ti2v-5B"]
kinds = [{ name = "g5.xlarge", cap = 5.0, on_demand_cap = 5.0 }]
rules.sizing = { tasks_per_gpu_hour = 0.5, target = "2h", min = 1, max = 5 }
patience = { moving = "100ms", calm = "500ms", throttled = "300ms" }
"#;

async fn stage_with(rule: Rule) -> Stage {
    let stage = Stage::set(POOL).await;
    stage.cloud.fail([rule]);
    stage.submit("a").await;
    stage
}

fn refused(stage: &Stage) -> bool {
    failing(&stage.ctx, "pool default launches").is_some()
}

fn denied() -> Rule {
    Rule {
        code: Some("UnauthorizedOperation".to_owned()),
        ..Rule::new("CreateFleet", Action::PoolError)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_nothing_but_refusals_names_the_missing_permission() {
    let denied = Rule {
        code: Some("UnauthorizedOperation".to_owned()),
        message: Some(
            "You are not authorized to perform: ec2:RunInstances on resource: *".to_owned(),
        ),
        ..Rule::new("CreateFleet", Action::PoolError)
    };
    let stage = Box::pin(stage_with(denied)).await;
    stage.start_fleet().await;
    stage.request(1).await;
    until("fleet is not ready and says why", async || {
        let said = failing(&stage.ctx, "pool default launches");
        said.is_some_and(|reason| reason.contains("grant ec2:RunInstances"))
    })
    .await;
    let says_so = |batch: &Batch| {
        let blocked = batch.blocked.as_ref();
        blocked.is_some_and(|b| {
            b.by == BlockedBy::Configuration && b.sentence.contains("grant ec2:RunInstances")
        })
    };
    stage.until_batch("blocked", says_so).await;
    stage.cloud.faults().clear();
    let batch = stage.until_machines(1).await;
    assert_eq!(batch.id.number, 1, "within the same batch");
    until("it is ready again", async || {
        failing(&stage.ctx, "pool default launches").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_forgotten_once_the_batch_has_ended() {
    let stage = Box::pin(stage_with(denied())).await;
    stage.start_fleet().await;
    stage.request(1).await;
    until("fleet says so", async || refused(&stage)).await;
    let order = serde_json::json!({ "mode": "now", "by": "anna" });
    stage.ask("ops.stop", &order).await;
    stage.until_over().await;
    until("it is ready again", async || !refused(&stage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_forgotten_once_the_machines_that_run_suffice() {
    let stage = Stage::set(POOL).await;
    let workers = stage.workers.clone();
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage.until_machines(1).await;
    let id = batch.instances[0].id.clone();
    workers.come_up(&id, State::Idle).await;
    stage.cloud.fail([denied()]);
    stage.submit("b").await;
    until("a second machine is refused", async || refused(&stage)).await;
    let hand = workers.take(&id).await;
    workers.succeed(&id, hand).await;
    until("one is enough for one task", async || !refused(&stage)).await;
    assert!(stage.batch().await.is_active());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_have_expired_are_waited_for() {
    let expired = Rule {
        code: Some("ExpiredToken".to_owned()),
        times: Some(2),
        ..Rule::new("CreateFleet", Action::Error)
    };
    let stage = Box::pin(stage_with(expired)).await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage.until_machines(1).await;
    assert_eq!((batch.id.number, batch.launches.len()), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_was_deleted_is_left_out_of_the_next_launch() {
    let stage = Stage::set(POOL).await;
    let subnets = stage.ec2.subnets(&spotreel_ec2::SubnetFilter::Default);
    let gone = subnets.await.unwrap()[0].clone();
    let deleted = Rule {
        code: Some("InvalidSubnetID.NotFound".to_owned()),
        message: Some(format!("The subnet ID '{}' does not exist", gone.id)),
        times: Some(1),
        ..Rule::new("CreateFleet", Action::Error)
    };
    stage.cloud.fail([deleted]);
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let batch = stage.until_machines(1).await;
    assert_ne!(batch.instances[0].place.zone, gone.zone);
    let zones: Vec<_> = batch
        .penalties
        .iter()
        .map(|penalty| penalty.place.as_ref().unwrap().zone.as_str())
        .collect();
    assert_eq!(zones, [gone.zone.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_is_unfit_blocks_with_its_cure_until_it_is_mended() {
    let mut stage = Stage::set(POOL).await;
    stage.set_key("template.version", "3");
    stage.submit("a").await;
    stage.start_fleet().await;
    stage.request(1).await;
    let cure = "has no version 3: set template.version to one that it has";
    until("fleet is not ready and says why", async || {
        failing(&stage.ctx, "pool default").is_some_and(|reason| reason.contains(cure))
    })
    .await;
    let says_so = |batch: &Batch| {
        let blocked = batch.blocked.as_ref();
        blocked.is_some_and(|b| b.sentence.contains(cure))
    };
    let batch = stage.until_batch("blocked", says_so).await;
    assert_eq!(batch.blocked.unwrap().by, BlockedBy::Configuration);
    assert_eq!(stage.calls("CreateFleet"), 0);
    let third = template_of_spot("#!/bin/bash\nexec sleep 601\n");
    assert_eq!(stage.ec2.ensure_template(&third).await.unwrap().version, 3);
    stage.until_machines(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_is_looked_at_again_when_a_launch_is_refused() {
    let gone = Rule {
        code: Some("InvalidLaunchTemplateId.VersionNotFound".to_owned()),
        times: Some(1),
        ..Rule::new("CreateFleet", Action::Error)
    };
    let stage = Box::pin(stage_with(gone)).await;
    stage.start_fleet().await;
    until("the pools are checked", async || {
        let health = stage.ctx.health.readiness();
        health
            .checks
            .get("pool default")
            .is_some_and(|check| check.ok)
    })
    .await;
    let looks = || stage.calls("DescribeLaunchTemplateVersions");
    let before = looks();
    stage.request(1).await;
    stage.until_machines(1).await;
    until("it was looked at again", async || looks() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_tags_are_on_what_spot_and_on_demand_bring() {
    let pool = format!("{POOL}on_demand_after = \"0s\"\ntags = {{ team = \"films\" }}\n");
    let mut stage = Stage::set(&pool).await;
    stage.set_key("tags.cost-center", "42");
    stage.submit("a").await;
    let mut spot = template_of_spot("#!/bin/bash\nexec sleep 600\n");
    spot.tags.insert("team".to_owned(), "films".to_owned());
    let spot = stage.ec2.ensure_template(&spot).await.unwrap();
    stage.set_key("template.version", &spot.version.to_string());
    stage.start_fleet().await;
    stage.request(1).await;
    stage.until_machines(1).await;
    for pool in stage.cloud.pools() {
        let cloud = &stage.cloud;
        let full = cloud.set_capacity(&pool.instance_type, &pool.zone, pool.used);
        full.unwrap();
    }
    stage.submit("b").await;
    let both = |batch: &Batch| {
        let mut lifecycles = batch.instances.iter().map(|i| i.lifecycle);
        lifecycles.any(|lifecycle| lifecycle == Lifecycle::OnDemand)
    };
    stage.until_batch("one on demand", both).await;
    for seen in stage.ec2.list(ENV).await.unwrap().instances {
        for (key, value) in [("cost-center", "42"), ("team", "films"), (tag::ENV, ENV)] {
            assert_eq!(seen.tag(key), Some(value), "{seen:?}");
        }
    }
}
