//! The adapter and the local cloud's EC2, through the real SDK.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;

use spotreel_domain::fleet::cloud::{
    CloudState, ErrorClass, LaunchRequest, Lifecycle, Override, Place, Template, tag,
};
use spotreel_domain::money::Usd;
use spotreel_ec2::{CallError, Ec2, Ec2Config, Keys, SubnetFilter, TemplateSpec};
use spotreel_localcloud::{Action, Config, Rule, TestCloud};

const ENV: &str = "test";
const NOWHERE: &str = "i-0123456789abcdef0";

struct Setup {
    cloud: TestCloud,
    ec2: Ec2,
    template: Template,
}

async fn setup() -> Setup {
    setup_with(|_| {}).await
}

async fn setup_with(change: impl FnOnce(&mut Config)) -> Setup {
    let cloud = TestCloud::with(change).await;
    let at = Ec2Config {
        region: spotreel_localcloud::REGION.to_owned(),
        endpoint_url: Some(cloud.endpoint_url()),
    };
    let keys = Keys {
        access_key: "local".to_owned(),
        secret_key: "local-secret".to_owned(),
    };
    let ec2 = Ec2::connect_with_keys(&at, keys).await;
    let template = ec2.ensure_template(&spec()).await.unwrap();
    Setup {
        cloud,
        ec2,
        template,
    }
}

/// Machines that do nothing until somebody ends them.
fn spec() -> TemplateSpec {
    let mut spec = TemplateSpec::new(
        "spotreel-test",
        "ami-0abcdef1234567890",
        "#!/bin/bash\nexec sleep 600\n",
    );
    spec.tags
        .insert("Project".to_owned(), "spotreel".to_owned());
    spec
}

impl Setup {
    async fn request(&self, token: &str, units: u32) -> LaunchRequest {
        let subnets = self.ec2.subnets(&SubnetFilter::Default).await.unwrap();
        let overrides = subnets.iter().map(|subnet| Override {
            place: place("g5.xlarge", &subnet.zone),
            subnet: subnet.id.clone(),
            max_price: Some("0.90".parse().unwrap()),
        });
        LaunchRequest {
            client_token: token.to_owned(),
            template: self.template.clone(),
            lifecycle: Lifecycle::Spot,
            units,
            overrides: overrides.collect(),
            tags: tags(ENV),
        }
    }

    fn called(&self, action: &str) -> usize {
        let calls = self.cloud.calls();
        calls.iter().filter(|call| call.action == action).count()
    }
}

fn place(kind: &str, zone: &str) -> Place {
    Place {
        kind: kind.to_owned(),
        zone: zone.to_owned(),
    }
}

fn tags(env: &str) -> BTreeMap<String, String> {
    [
        (tag::MANAGED_BY, tag::MANAGED_BY_FLEET),
        (tag::ENV, env),
        (tag::POOL, "g5"),
        (tag::BATCH, "g5-1"),
        (tag::LAUNCH, "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn kinds(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn a_launch_is_listed_and_ended() {
    let s = setup().await;
    let request = s.request("t-1", 3).await;
    let answer = s.ec2.launch(&request).await.unwrap();
    assert_eq!((answer.instances.len(), &answer.errors[..]), (3, &[][..]));
    assert!(answer.instances.iter().all(|i| i.kind == "g5.xlarge"
        && i.zone.starts_with("us-east-2")
        && i.lifecycle == Lifecycle::Spot));

    let listing = s.ec2.list(ENV).await.unwrap();
    assert_eq!(listing.instances.len(), 3);
    for seen in &listing.instances {
        let launched = answer.instances.iter().find(|i| i.id == seen.id).unwrap();
        assert_eq!((&seen.kind, &seen.zone), (&launched.kind, &launched.zone));
        assert_eq!(seen.lifecycle, Lifecycle::Spot);
        assert!(
            request
                .tags
                .iter()
                .all(|(key, value)| seen.tag(key) == Some(value))
        );
        assert_eq!(
            (seen.launch(), seen.batch().map(|b| b.to_string())),
            (Some(1), Some("g5-1".to_owned()))
        );
    }
    assert!(s.ec2.list("another").await.unwrap().instances.is_empty());

    assert!(listing.instances.iter().all(|i| i.has_public_address));
    let version = s.ec2.template_version(&s.template).await.unwrap();
    assert_eq!(version.map(|version| version.volume_gib), Some(100));
    let began = listing.cloud_now;
    let ids: Vec<_> = answer.instances.iter().map(|i| i.id.clone()).collect();
    s.ec2.tag(&ids, &[("spotreel:ready", "yes")]).await.unwrap();
    let listing = s.ec2.list(ENV).await.unwrap();
    assert!(
        listing
            .instances
            .iter()
            .all(|i| i.tag("spotreel:ready") == Some("yes"))
    );

    assert!(
        s.ec2
            .terminate(&ids)
            .await
            .iter()
            .all(|(_, result)| result.is_ok())
    );
    loop {
        let listing = s.ec2.list(ENV).await.unwrap();
        if listing
            .instances
            .iter()
            .all(|i| i.state == CloudState::Terminated)
        {
            assert!(listing.instances.iter().all(|i| i.reason.is_some()));
            let ended = |at| at >= began && at <= listing.cloud_now;
            let mut ends = listing.instances.iter().map(|i| i.left_at);
            assert!(ends.all(|at| at.is_some_and(ended)), "EC2 says when");
            break;
        }
    }
    let fleets = [
        answer.fleet,
        "fleet-00000000-0000-0000-0000-000000000000".to_owned(),
    ];
    let deleted = s.ec2.delete_fleets(&fleets).await;
    assert_eq!(deleted[0], (fleets[0].clone(), Ok(())));
    assert!(
        deleted[1].1.as_ref().is_err_and(CallError::is_not_found),
        "{deleted:?}"
    );
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn the_same_request_again_is_the_same_launch() {
    let s = setup().await;
    let request = s.request("t-1", 2).await;
    let first = s.ec2.launch(&request).await.unwrap();
    let json = serde_json::to_string(&request).unwrap();
    let thawed: LaunchRequest = serde_json::from_str(&json).unwrap();
    assert_eq!(s.ec2.launch(&thawed).await.unwrap(), first);

    let other = LaunchRequest {
        units: 3,
        ..request
    };
    let error = s.ec2.launch(&other).await.unwrap_err();
    assert_eq!(error.code, "IdempotentParameterMismatch");
    assert_eq!(error.class, ErrorClass::Configuration);
    assert!(error.maybe_running, "the first one runs");
    assert_eq!(s.ec2.list(ENV).await.unwrap().instances.len(), 2);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn a_lost_answer_may_have_launched() {
    let s = setup().await;
    for (token, action) in [("t-1", Action::Reset), ("t-2", Action::InternalError)] {
        let before = s.ec2.list(ENV).await.unwrap().instances.len();
        let calls = s.called("CreateFleet");
        let request = s.request(token, 2).await;
        s.cloud.fail([Rule {
            times: Some(1),
            after: true,
            ..Rule::new("CreateFleet", action)
        }]);
        let error = s.ec2.launch(&request).await.unwrap_err();
        assert_eq!(
            (error.class, error.maybe_running),
            (ErrorClass::Unknown, true),
            "{error}"
        );
        let words = error.to_string();
        assert!(
            words.contains("spotreel:batch=g5-1") && words.ends_with("may run"),
            "{words}"
        );
        assert_eq!(s.called("CreateFleet"), calls + 1, "one try");

        let replay = s.ec2.launch(&request).await.unwrap();
        assert_eq!(replay.instances.len(), 2);
        assert_eq!(s.ec2.list(ENV).await.unwrap().instances.len(), before + 2);
    }
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn a_refusal_has_launched_nothing() {
    let s = setup().await;
    let request = s.request("t-1", 2).await;
    let refused = |code: &str| Rule {
        times: Some(1),
        code: Some(code.to_owned()),
        ..Rule::new("CreateFleet", Action::Error)
    };
    for (rule, class) in [
        (
            Rule {
                times: Some(1),
                ..Rule::new("CreateFleet", Action::SlowDown)
            },
            ErrorClass::Throttled,
        ),
        (refused("UnauthorizedOperation"), ErrorClass::Configuration),
        (refused("MaxSpotInstanceCountExceeded"), ErrorClass::Quota),
        (
            refused("InsufficientInstanceCapacity"),
            ErrorClass::Capacity,
        ),
    ] {
        s.cloud.fail([rule]);
        let error = s.ec2.launch(&request).await.unwrap_err();
        assert_eq!(
            (error.class, error.maybe_running),
            (class, false),
            "{error}"
        );
        assert!(
            error.to_string().starts_with("nothing was launched"),
            "{error}"
        );
    }
    let mut unknown = request.clone();
    unknown.overrides[0].subnet = "subnet-0123456789abcdef0".to_owned();
    let error = s.ec2.launch(&unknown).await.unwrap_err();
    assert_eq!(
        (error.class, error.maybe_running),
        (ErrorClass::Configuration, false),
        "{error}"
    );
    assert!(s.ec2.list(ENV).await.unwrap().instances.is_empty());
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn what_is_missing_is_told_by_place() {
    let s = setup().await;
    let mut request = s.request("t-1", 5).await;
    let zones: Vec<_> = request
        .overrides
        .iter()
        .map(|o| o.place.zone.clone())
        .collect();
    s.cloud.set_capacity("g5.xlarge", &zones[0], 2).unwrap();
    s.cloud.set_price("g5.xlarge", &zones[1], 950_000).unwrap();
    s.cloud.set_capacity("g5.xlarge", &zones[2], 0).unwrap();
    request.tags.insert(tag::LAUNCH.to_owned(), "2".to_owned());
    let answer = s.ec2.launch(&request).await.unwrap();
    assert_eq!(answer.instances.len(), 2);
    let told = |zone: &str| {
        let place = Some(place("g5.xlarge", zone));
        let found = answer.errors.iter().find(|error| error.place == place);
        found.map(|error| (error.class, error.code.as_str()))
    };
    assert_eq!(
        told(&zones[0]),
        Some((ErrorClass::Capacity, "InsufficientInstanceCapacity"))
    );
    assert_eq!(
        told(&zones[1]),
        Some((ErrorClass::Price, "SpotMaxPriceTooLow"))
    );
    assert_eq!(
        told(&zones[2]),
        Some((ErrorClass::Capacity, "InsufficientInstanceCapacity"))
    );
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn the_quota_is_told_and_kept() {
    let s = setup_with(|config| config.vcpu_quota = 4).await;
    assert_eq!(s.ec2.quota(Lifecycle::Spot).await.unwrap(), Some(4));
    assert_eq!(s.ec2.quota(Lifecycle::OnDemand).await.unwrap(), Some(4));
    let request = s.request("t-1", 2).await;
    let answer = s.ec2.launch(&request).await.unwrap();
    assert_eq!(answer.instances.len(), 1);
    assert!(
        answer
            .errors
            .iter()
            .any(|error| error.class == ErrorClass::Quota),
        "{answer:?}"
    );

    let mut request = LaunchRequest {
        lifecycle: Lifecycle::OnDemand,
        ..s.request("t-2", 1).await
    };
    let answer = s.ec2.launch(&request).await.unwrap();
    assert!(
        answer.instances.is_empty(),
        "$1.006 is above the cap of $0.90"
    );
    assert_eq!(answer.errors[0].code, "UnfulfillableCapacity");
    request.client_token = "t-3".to_owned();
    for wish in &mut request.overrides {
        wish.max_price = Some("1.01".parse().unwrap());
    }
    let answer = s.ec2.launch(&request).await.unwrap();
    assert_eq!(answer.instances[0].lifecycle, Lifecycle::OnDemand);

    s.cloud.fail([Rule {
        code: Some("AccessDeniedException".to_owned()),
        ..Rule::new("GetServiceQuota", Action::Error)
    }]);
    assert_eq!(s.ec2.quota(Lifecycle::Spot).await.unwrap(), None);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn the_young_are_listed_late() {
    let s = setup().await;
    let request = s.request("t-1", 1).await;
    s.cloud.fail([Rule {
        for_ms: 60_000,
        ..Rule::new("DescribeInstances", Action::Hide)
    }]);
    s.ec2.launch(&request).await.unwrap();
    assert!(s.ec2.list(ENV).await.unwrap().instances.is_empty());
    s.cloud.faults().clear();
    assert_eq!(s.ec2.list(ENV).await.unwrap().instances.len(), 1);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn reads_are_tried_again_and_launches_are_not() {
    let s = setup().await;
    s.cloud.fail([Rule {
        times: Some(2),
        ..Rule::new("DescribeInstances", Action::Reset)
    }]);
    s.ec2.list(ENV).await.unwrap();
    assert_eq!(s.called("DescribeInstances"), 3);

    s.cloud
        .fail([Rule::new("DescribeInstances", Action::InternalError)]);
    let error = s.ec2.list(ENV).await.unwrap_err();
    assert!(
        error.retryable() && matches!(error, CallError::NoAnswer { .. }),
        "{error}"
    );
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn one_bad_id_does_not_save_the_others() {
    let s = setup().await;
    let answer = s.ec2.launch(&s.request("t-1", 4).await).await.unwrap();
    let mut ids: Vec<_> = answer.instances.iter().map(|i| i.id.clone()).collect();
    ids.insert(2, NOWHERE.to_owned());
    let results = s.ec2.terminate(&ids).await;
    assert_eq!(
        results.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        ids.iter().collect::<Vec<_>>()
    );
    for (id, result) in results {
        match id == NOWHERE {
            true => assert!(result.is_err_and(|e| e.is_not_found())),
            false => assert_eq!(result, Ok(())),
        }
    }
    let alive = s.ec2.list(ENV).await.unwrap().instances;
    let running = |state| matches!(state, CloudState::Pending | CloudState::Running);
    assert!(!alive.iter().any(|i| running(i.state)), "{alive:?}");

    s.cloud
        .fail([Rule::new("TerminateInstances", Action::InternalError)]);
    let results = s.ec2.terminate(&ids).await;
    assert!(
        results
            .iter()
            .all(|(_, r)| matches!(r, Err(CallError::NoAnswer { .. })))
    );
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn a_template_is_its_content() {
    let s = setup().await;
    assert_eq!(s.template.version, 1);
    assert_eq!(s.ec2.ensure_template(&spec()).await.unwrap(), s.template);

    let mut other = spec();
    other.user_data.push_str("# another\n");
    let changed = s.ec2.ensure_template(&other).await.unwrap();
    assert_eq!((&changed.id, changed.version), (&s.template.id, 2));
    assert_eq!(s.ec2.ensure_template(&other).await.unwrap(), changed);
    assert_eq!(s.ec2.ensure_template(&spec()).await.unwrap(), s.template);
    assert_eq!(s.called("CreateLaunchTemplateVersion"), 1);

    let found = s.ec2.template("spotreel-test").await.unwrap();
    assert_eq!(found, s.ec2.template(&s.template.id).await.unwrap());
    assert_eq!(found.unwrap().id, s.template.id);
    assert_eq!(s.ec2.template("spotreel-missing").await.unwrap(), None);

    other.user_data = "#".repeat(17 * 1024);
    let error = s.ec2.ensure_template(&other).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Configuration);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn two_that_make_a_template_at_once_both_have_one() {
    let s = setup().await;
    let mut fresh = spec();
    fresh.name = "spotreel-race".to_owned();
    let (one, two) = tokio::join!(s.ec2.ensure_template(&fresh), s.ec2.ensure_template(&fresh));
    assert_eq!(one.unwrap().id, two.unwrap().id);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn prices_are_changes_by_place() {
    let s = setup().await;
    let wanted = kinds(&["g5.xlarge", "g6.xlarge"]);
    let now = s.ec2.list(ENV).await.unwrap().cloud_now;
    let prices = s.ec2.spot_prices(&wanted, Some(now)).await.unwrap();
    assert_eq!(prices.len(), 6, "two types in three zones: {prices:?}");
    assert!(prices.iter().all(|change| change.price > Usd::ZERO));

    let dear = Usd::from_micros(500_000);
    s.cloud
        .set_price("g5.xlarge", "us-east-2a", dear.micros())
        .unwrap();
    let prices = s.ec2.spot_prices(&wanted, Some(now)).await.unwrap();
    let of_place = |p: &&spotreel_ec2::PriceChange| p.place == place("g5.xlarge", "us-east-2a");
    assert_eq!(prices.iter().rfind(of_place).unwrap().price, dear);
    assert_eq!(s.ec2.spot_prices(&[], Some(now)).await.unwrap(), []);
    s.cloud.shutdown().await;
}

#[tokio::test]
async fn places_are_what_the_region_has() {
    let s = setup().await;
    let wanted = kinds(&["g5.xlarge", "g99.xlarge"]);
    let places = s.ec2.offerings(&wanted).await.unwrap();
    assert_eq!(places.len(), 3, "{places:?}");
    let found = s.ec2.kinds(&wanted).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].vcpus, found[0].memory_mib, found[0].gpus),
        (4, 16_384, 1)
    );
    assert_eq!(found[0].gpu_name.as_deref(), Some("A10G"));

    let subnets = s.ec2.subnets(&SubnetFilter::Default).await.unwrap();
    assert!(
        subnets.len() == 3 && subnets.iter().all(|s| s.free_addresses > 0),
        "{subnets:?}"
    );
    let one = SubnetFilter::Ids(vec![subnets[1].id.clone()]);
    assert_eq!(s.ec2.subnets(&one).await.unwrap(), subnets[1..2]);
    let none = SubnetFilter::Ids(vec!["subnet-0123456789abcdef0".to_owned()]);
    assert!(s.ec2.subnets(&none).await.is_err_and(|e| e.is_not_found()));
    s.cloud.shutdown().await;
}
