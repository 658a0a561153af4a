//! What fleets lean on in EC2, and the faults that they have to live with. boto3 goes through the breadth of the API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod ec2_stage;

use std::time::Duration;

use ec2_stage::{KIND, Scene, ZONE, fleet, runs, until};
use spotreel_localcloud::{Action, Interruption, InterruptionKind, Rule};

const SLEEPS: &str = "exec sleep 600";

fn once(op: &str, action: Action) -> Rule {
    Rule {
        times: Some(1),
        ..Rule::new(op, action)
    }
}

fn interruption(instance: Option<&str>, kind: InterruptionKind, lead_s: f64) -> Interruption {
    Interruption {
        instance: instance.map(str::to_owned),
        kind,
        lead_s,
    }
}

#[tokio::test]
async fn a_lost_answer_is_found_again_by_its_token() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    scene.cloud.fail([Rule {
        after: true,
        ..once("CreateFleet", Action::Reset)
    }]);
    let request = fleet(&template, "2", "token-1");
    let lost = scene.ec2.try_call("CreateFleet", &request).await;
    assert!(lost.is_err(), "the connection is cut");
    assert_eq!(scene.cloud.instances().len(), 2, "but the work was done");
    let found = scene.ec2.good("CreateFleet", &request).await;
    let ids: Vec<_> = scene.cloud.instances().into_iter().map(|i| i.id).collect();
    assert_eq!(found.instance_ids().len(), 2);
    assert!(found.instance_ids().iter().all(|id| ids.contains(id)));
    assert_eq!(scene.cloud.instances().len(), 2, "and not done again");

    let other = fleet(&template, "3", "token-1");
    let other = scene.ec2.call("CreateFleet", &other).await;
    assert_eq!(other.code(), "IdempotentParameterMismatch");
    let next = scene.ec2.fleet(&template, 2, "token-2").await;
    assert_ne!(next.one("fleetId"), found.one("fleetId"));

    let calls = scene.cloud.calls();
    let told: Vec<_> = calls
        .iter()
        .filter(|call| call.action == "CreateFleet")
        .map(|call| (call.client_token.as_deref(), call.error.as_deref()))
        .collect();
    let expected = [
        (Some("token-1"), Some("reset")),
        (Some("token-1"), None),
        (Some("token-1"), Some("IdempotentParameterMismatch")),
        (Some("token-2"), None),
    ];
    assert_eq!(told, expected);
    assert!(calls.windows(2).all(|w| w[0].arrived_us <= w[1].arrived_us));
}

#[tokio::test]
async fn racing_calls_with_one_token_make_one_fleet() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    let racers = (0..10).map(|_| scene.ec2.fleet(&template, 1, "same"));
    let answers = futures::future::join_all(racers).await;
    let first = answers[0].one("fleetId");
    assert!(answers.iter().all(|answer| answer.one("fleetId") == first));
    assert_eq!(scene.cloud.instances().len(), 1);
}

#[tokio::test]
async fn calls_fail_as_ordered() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    scene.cloud.fail([
        once("DescribeInstances", Action::SlowDown),
        once("DescribeInstances", Action::InternalError),
        Rule {
            code: Some("UnauthorizedOperation".to_owned()),
            ..once("CreateFleet", Action::Error)
        },
    ]);
    let describe = || scene.ec2.call("DescribeInstances", &[]);
    let throttled = describe().await;
    assert_eq!(throttled.status, 503);
    assert_eq!(throttled.code(), "RequestLimitExceeded");
    let broken = describe().await;
    assert_eq!(
        (broken.status.as_u16(), broken.code()),
        (500, "InternalError".to_owned())
    );
    assert_eq!(describe().await.status, 200);
    let denied = scene
        .ec2
        .call("CreateFleet", &fleet(&template, "1", "t"))
        .await;
    assert_eq!(
        (denied.status.as_u16(), denied.code()),
        (403, "UnauthorizedOperation".to_owned())
    );
    assert_eq!(scene.cloud.instances().len(), 0);
}

#[tokio::test]
async fn a_pool_refuses_and_a_launch_stops_halfway() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    scene.cloud.fail([
        Rule {
            code: Some("UnfulfillableCapacity".to_owned()),
            zone: Some(ZONE.to_owned()),
            ..once("CreateFleet", Action::PoolError)
        },
        Rule {
            count: Some(1),
            ..once("CreateFleet", Action::Partial)
        },
    ]);
    let mut request = fleet(&template, "3", "t");
    request.push(("LaunchTemplateConfigs.1.Overrides.2.InstanceType", KIND));
    let zone = "LaunchTemplateConfigs.1.Overrides.2.AvailabilityZone";
    request.push((zone, "us-east-2b"));
    let answer = scene.ec2.good("CreateFleet", &request).await;
    assert_eq!(answer.instance_ids().len(), 1);
    let codes = answer.all("errorCode");
    assert_eq!(
        codes,
        ["UnfulfillableCapacity", "InsufficientInstanceCapacity"]
    );
}

#[tokio::test]
async fn listings_can_be_behind() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    let old = scene.ec2.fleet(&template, 1, "t1").await.instance_ids();
    scene.until_state(&old[0], "running").await;
    let hour = 3_600_000;
    scene.cloud.fail([Rule {
        for_ms: hour,
        ..once("DescribeInstances", Action::Hide)
    }]);
    let ids = || async {
        let found = scene.ec2.good("DescribeInstances", &[]).await;
        found.all("instanceId")
    };
    assert_eq!(ids().await, Vec::<String>::new(), "not there yet");
    assert_eq!(ids().await, old, "and now it is");

    let by_id = [("InstanceId.1", old[0].as_str())];
    scene.ec2.good("TerminateInstances", &by_id).await;
    scene.until_state(&old[0], "terminated").await;
    // As of an hour ago there was nothing at all.
    scene.cloud.fail([Rule {
        for_ms: hour,
        ..once("DescribeInstances", Action::Stale)
    }]);
    let stale = scene.ec2.call("DescribeInstances", &by_id).await;
    assert_eq!(stale.code(), "InvalidInstanceID.NotFound");
    let now = scene.ec2.good("DescribeInstances", &by_id).await;
    assert!(now.body.contains("<name>terminated</name>"), "{}", now.body);
}

#[tokio::test]
async fn a_terminate_that_is_answered_may_not_have_happened() {
    let scene = Scene::new().await;
    let template = scene.ec2.template(SLEEPS).await;
    let ids = scene.ec2.fleet(&template, 1, "t").await.instance_ids();
    let pid = scene.until_state(&ids[0], "running").await.pid.unwrap();
    scene.cloud.fail([Rule {
        code: Some("InvalidInstanceID.NotFound".to_owned()),
        ..once("TerminateInstances", Action::Error)
    }]);
    let by_id = [("InstanceId.1", ids[0].as_str())];
    let missing = scene.ec2.call("TerminateInstances", &by_id).await;
    assert_eq!(missing.code(), "InvalidInstanceID.NotFound");
    scene.cloud.fail([Rule {
        for_ms: 3_600_000,
        ..once("TerminateInstances", Action::TerminateSlowly)
    }]);
    let answered = scene.ec2.good("TerminateInstances", &by_id).await;
    assert_eq!(answered.all("name"), ["shutting-down", "running"]);
    let found = scene.ec2.good("DescribeInstances", &by_id).await;
    assert!(found.body.contains("<name>running</name>") && runs(pid));
    scene.ec2.good("TerminateInstances", &by_id).await;
    scene.until_state(&ids[0], "terminated").await;
    assert!(!runs(pid));
}

/// Asks its metadata as a worker would, and writes down what it is told.
const LISTENS: &str = r#"
at=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -sfX PUT -H 'x-aws-ec2-metadata-token-ttl-seconds: 60' $at/api/token)
ask() { curl -sf -H "x-aws-ec2-metadata-token: $token" $at/meta-data/$1; }
trap 'echo told > told; exit 0' TERM
ask instance-id > id
echo "$FLAVOR" > flavor
until ask events/recommendations/rebalance > hint.draft; do sleep 0.02; done; mv hint.draft hint
until ask spot/instance-action > notice.draft; do sleep 0.02; done; mv notice.draft notice
while :; do sleep 0.02; done
"#;

#[tokio::test]
async fn the_market_warns_and_takes() {
    let scene = Scene::with(|config| {
        config.instance_variables = vec![("FLAVOR".to_owned(), "vanilla".to_owned())];
    });
    let scene = scene.await;
    let template = scene.ec2.template(LISTENS).await;
    let ids = scene.ec2.fleet(&template, 1, "t").await.instance_ids();
    let id = &ids[0];
    scene.until_state(id, "running").await;
    let dir = scene.cloud.data().join("machines").join(id);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let written =
        |name: &'static str| until(name, move || read(name).filter(|text| !text.is_empty()));
    assert_eq!(written("id").await, *id);
    assert_eq!(written("flavor").await, "vanilla\n");

    let hint = interruption(None, InterruptionKind::Rebalance, 0.0);
    assert_eq!(scene.cloud.interrupt(&hint).as_ref(), Some(id));
    assert!(written("hint").await.contains("noticeTime"));
    let notice = interruption(Some(id), InterruptionKind::Notice, 1.0);
    assert_eq!(scene.cloud.interrupt(&notice).as_ref(), Some(id));
    assert!(written("notice").await.contains("terminate"));
    let gone = scene.until_state(id, "terminated").await;
    assert_eq!(gone.reason, Some("Server.SpotInstanceTermination"));
    assert_eq!(
        written("told").await,
        "told\n",
        "it had time to say goodbye"
    );
    let line = &scene.cloud.bill()[0];
    assert!(line.interrupted && line.compute_micros == 0, "{line:?}");
}

#[tokio::test]
async fn some_go_without_a_word() {
    let scene = Scene::new().await;
    let script = "trap 'echo told > told' TERM; while :; do sleep 0.02; done";
    let template = scene.ec2.template(script).await;
    let ids = scene.ec2.fleet(&template, 1, "t").await.instance_ids();
    let pid = scene.until_state(&ids[0], "running").await.pid.unwrap();
    let silent = interruption(None, InterruptionKind::Silent, 0.0);
    assert!(scene.cloud.interrupt(&silent).is_some());
    scene.until_state(&ids[0], "terminated").await;
    let dir = scene.cloud.data().join("machines").join(&ids[0]);
    assert!(!runs(pid) && !dir.join("told").exists());
    assert_eq!(scene.cloud.interrupt(&silent), None, "nobody is left");
}

#[tokio::test]
async fn a_price_over_the_bid_takes_the_instance() {
    let scene = Scene::with(|config| config.speed = 600.0).await;
    let template = scene.ec2.template("").await;
    let mut request = fleet(&template, "1", "t");
    request.push(("LaunchTemplateConfigs.1.Overrides.1.MaxPrice", "0.5"));
    let ids = scene.ec2.good("CreateFleet", &request).await.instance_ids();
    scene.until_state(&ids[0], "running").await;
    scene.cloud.set_price(KIND, ZONE, 510_000).unwrap();
    let gone = scene.until_state(&ids[0], "terminated").await;
    assert_eq!(gone.reason, Some("Server.SpotInstanceTermination"));
    let refused = scene.ec2.good("CreateFleet", &request[..]).await;
    assert_eq!(
        refused.instance_ids(),
        ids,
        "the token's answer is the old one"
    );
    let mut request = fleet(&template, "1", "t2");
    request.push(("LaunchTemplateConfigs.1.Overrides.1.MaxPrice", "0.5"));
    let refused = scene.ec2.good("CreateFleet", &request).await;
    assert_eq!(refused.one("errorCode"), "SpotMaxPriceTooLow");
    assert!(refused.one("errorMessage").contains("price of 0.510000"));
    assert!(scene.cloud.set_price("t2.micro", ZONE, 1).is_err());
}

#[tokio::test]
async fn the_cloud_s_time_runs_faster() {
    let scene = Scene::with(|config| config.speed = 36_000.0).await;
    let template = scene.ec2.template("").await;
    let ids = scene.ec2.fleet(&template, 1, "t").await.instance_ids();
    scene.until_state(&ids[0], "running").await;
    // An hour of the cloud is a tenth of a second here.
    until("an hour is on the bill", || {
        scene
            .cloud
            .bill()
            .first()
            .filter(|line| line.seconds > 3600)
            .map(|_| ())
    })
    .await;
    scene
        .ec2
        .good("TerminateInstances", &[("InstanceId.1", &ids[0])])
        .await;
    until("it is shown for an hour, and then no more", || {
        scene.find(&ids[0]).is_none().then_some(())
    })
    .await;
    let line = &scene.cloud.bill()[0];
    let expected = i128::from(line.seconds) * 377_000 / 3600;
    let compute = i128::from(line.compute_micros);
    assert!((compute - expected).abs() <= 1, "{line:?}");
}

#[tokio::test]
async fn units_are_weighed_and_bids_are_per_unit() {
    let scene = Scene::new().await;
    let template = scene.ec2.template("").await;
    let mut request = fleet(&template, "5", "t");
    request.push(("LaunchTemplateConfigs.1.Overrides.1.WeightedCapacity", "2"));
    request.push(("LaunchTemplateConfigs.1.Overrides.1.MaxPrice", "0.19"));
    let answer = scene.ec2.good("CreateFleet", &request).await;
    assert_eq!(answer.instance_ids().len(), 3, "{}", answer.body);
    let told = [("FleetId.1", answer.one("fleetId"))];
    let told = told.each_ref().map(|(name, id)| (*name, id.as_str()));
    let told = scene.ec2.good("DescribeFleets", &told).await;
    assert_eq!(told.one("fulfilledCapacity"), "6");
}

#[tokio::test]
async fn a_pending_instance_can_be_ended() {
    let scene = Scene::with(|config| config.boot = Duration::from_secs(3600)).await;
    let template = scene.ec2.template(SLEEPS).await;
    let ids = scene.ec2.fleet(&template, 1, "t").await.instance_ids();
    assert_eq!(scene.find(&ids[0]).unwrap().state, "pending");
    scene
        .ec2
        .good("TerminateInstances", &[("InstanceId.1", &ids[0])])
        .await;
    scene.until_state(&ids[0], "terminated").await;
    let line = &scene.cloud.bill()[0];
    assert_eq!(line.compute_micros, 0, "what never ran costs nothing");
    assert!(line.address_micros > 0, "but for its address");
}

#[tokio::test]
async fn nothing_outlives_a_shutdown() {
    let scene = Scene::with(|config| config.machine_grace = Duration::from_millis(100)).await;
    let template = scene
        .ec2
        .template("trap '' TERM; sleep 600 & wait; sleep 600")
        .await;
    let ids = scene.ec2.fleet(&template, 2, "t").await.instance_ids();
    let mut pids = Vec::new();
    for id in &ids {
        pids.push(scene.until_state(id, "running").await.pid.unwrap());
    }
    scene.cloud.shutdown().await;
    assert!(pids.iter().all(|pid| !runs(*pid)));
}

#[tokio::test]
async fn who_does_not_sign_is_refused() {
    let scene = Scene::new().await;
    let request = reqwest::Client::new()
        .post(scene.cloud.endpoint_url())
        .body("Action=DescribeInstances&Version=2016-11-15");
    let answer = request.send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("MissingAuthenticationToken"), "{text}");
    let old = scene.ec2.call("NoSuchAction", &[]).await;
    assert_eq!(old.code(), "InvalidAction");
}
