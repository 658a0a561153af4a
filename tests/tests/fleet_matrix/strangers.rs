//! C18 and C19: what is not ours, and clocks that differ.

use std::collections::BTreeMap;
use std::time::Duration;

use spotreel_domain::batch::{Instance, InstanceState};
use spotreel_domain::fleet::cloud::{LaunchRequest, Lifecycle, Override, Place, Template, tag};
use spotreel_ec2::SubnetFilter;
use spotreel_tests::harness::{FleetOptions, FleetStage, always, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Launched by somebody else in the same account, with the same SDK.
async fn stranger(stage: &FleetStage, name: &str, tags: &[(&str, &str)]) -> String {
    let subnets = stage.ec2.subnets(&SubnetFilter::Default).await.unwrap();
    let template = stage
        .ec2
        .template("spotreel-worker")
        .await
        .unwrap()
        .unwrap();
    let request = LaunchRequest {
        client_token: format!("stranger-{name}"),
        template: Template {
            id: template.id,
            version: 1,
        },
        lifecycle: Lifecycle::Spot,
        units: 1,
        overrides: vec![Override {
            place: Place {
                kind: "g5.xlarge".to_owned(),
                zone: subnets[0].zone.clone(),
            },
            subnet: subnets[0].id.clone(),
            max_price: None,
        }],
        tags: tags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
    };
    let answer = stage.ec2.launch(&request).await.unwrap();
    answer.instances[0].id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_strangers_with_similar_names() {
    let options = FleetOptions {
        patience: vec![("life", "8s")],
        ..FleetOptions::default()
    };
    let mut stage = FleetStage::without_fleet(options).await;
    let (name, batch) = (("Name", "spotreel-default"), (tag::BATCH, "default-1"));
    let expired = (tag::EXPIRES_AT, "2020-01-01T00:00:00Z");
    let ours = (tag::MANAGED_BY, tag::MANAGED_BY_FLEET);
    let strangers = [
        // Another installation in the same account, its own fleet long dead.
        stranger(
            &stage,
            "other-env",
            &[name, batch, ours, expired, (tag::ENV, "matrix-2")],
        )
        .await,
        // Our environment, and nobody says that fleet manages it.
        stranger(&stage, "by-hand", &[name, batch, (tag::ENV, "matrix")]).await,
        stranger(&stage, "name-only", &[name]).await,
    ];
    // One that carries all our tags and belongs to nothing is no stranger.
    let orphan = stranger(
        &stage,
        "orphan",
        &[name, (tag::BATCH, "default-99"), ours, (tag::ENV, "matrix")],
    )
    .await;
    stage.start().await;
    stage.want(2).await;
    let recorded = stage.until_machines(2).await;
    for id in strangers.iter().chain([&orphan]) {
        assert!(recorded.instance(id).is_none());
    }
    let state = |id: &str| {
        let all = stage.cloud.instances();
        all.into_iter().find(|one| one.id == id).unwrap().state
    };
    eventually("the orphan ends", SOON, || async {
        (state(&orphan) == "terminated").then_some(())
    })
    .await;
    stage.stop().await;
    stage.until_over().await;
    stage.fleet.stop(SOON).await;
    // Nor does the reaper, told to end everything of this environment.
    let reaped = stage.reaper(&["--all"]).output().unwrap();
    assert!(reaped.status.success(), "{reaped:?}");
    for id in &strangers {
        assert_eq!(state(id), "running", "never touched");
    }
    let own: Vec<_> = stage
        .ours()
        .into_iter()
        .filter(|one| one.id != strangers[1])
        .collect();
    assert!(own.iter().all(|one| one.state == "terminated"), "{own:#?}");
}

/// Ten minutes.
const APART: i64 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn c19_the_controllers_clock_is_ten_minutes_off() {
    // Behind: by our own clock every machine would be past its boot limit and its life at birth. Ahead: none ever.
    for ahead in [-APART, APART] {
        let options = FleetOptions {
            patience: vec![("boot", "4s"), ("life", "60s")],
            cloud: Box::new(move |config| {
                config.clock_ahead = jiff::SignedDuration::from_secs(ahead);
            }),
            ..FleetOptions::default()
        };
        let stage = FleetStage::set(options).await;
        stage.want(1).await;
        let batch = stage.until_machines(1).await;
        let first = batch.instances[0].id.clone();
        let young = stage
            .ours()
            .into_iter()
            .find(|one| one.id == first)
            .unwrap();
        let off = young.launched_at.duration_since(batch.requested_at);
        assert!((off.as_secs() - ahead).abs() < 60, "{off:?}");
        let expires: jiff::Timestamp = young.tags[tag::EXPIRES_AT].parse().unwrap();
        let life = expires.duration_since(young.launched_at).as_secs();
        assert!(
            (50..=70).contains(&life),
            "the tag is in the cloud's time: {life} s"
        );
        always(
            "it has its time to boot",
            Duration::from_secs(2),
            || async { stage.running().contains(&first) },
        )
        .await;
        let batch = stage
            .until_batch("it ends at its boot limit", |batch| {
                batch.instance(&first).is_some_and(Instance::is_gone)
            })
            .await;
        let InstanceState::Gone { .. } = batch.instance(&first).unwrap().state else {
            unreachable!("it is gone");
        };
        let old = stage
            .ours()
            .into_iter()
            .find(|one| one.id == first)
            .unwrap();
        let lived = old.ended_at.unwrap().duration_since(old.launched_at);
        assert!((3..20).contains(&lived.as_secs()), "{lived:?}");
        stage.wind_up().await;
    }
}
