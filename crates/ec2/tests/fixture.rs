//! What the local cloud cannot be made to say: pages, odd answers, no answers. A listener that answers each action
//! from a script and keeps what it was asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use spotreel_domain::fleet::cloud::{
    CloudState, ErrorClass, LaunchRequest, Lifecycle, Override, Place, Template,
};
use spotreel_ec2::{CallError, Ec2, Ec2Config, Keys, TemplateVersion};

type Script = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

struct Fixture {
    ec2: Ec2,
    asked: Arc<Mutex<Vec<String>>>,
    _server: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Every request's form goes through `answer`: status and body.
async fn fixture(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Fixture {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let handler = |State((asked, answer)): State<(Arc<Mutex<Vec<String>>>, Script)>,
                   form: String| async move {
        let (status, body) = answer(&form);
        asked.lock().unwrap().push(form);
        (StatusCode::from_u16(status).unwrap(), body)
    };
    let script: Script = Arc::new(answer);
    let app = Router::new()
        .fallback(handler)
        .with_state((Arc::clone(&asked), script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    Fixture {
        ec2: connect(url).await,
        asked,
        _server: server,
    }
}

async fn connect(url: String) -> Ec2 {
    let config = Ec2Config {
        region: "us-east-2".to_owned(),
        endpoint_url: Some(url),
    };
    let keys = Keys {
        access_key: "a".to_owned(),
        secret_key: "s".to_owned(),
    };
    Ec2::connect_with_keys(&config, keys).await
}

fn request() -> LaunchRequest {
    LaunchRequest {
        client_token: "spotreel-token".to_owned(),
        template: Template {
            id: "lt-1".to_owned(),
            version: 7,
        },
        lifecycle: Lifecycle::Spot,
        units: 4,
        overrides: vec![
            Override {
                place: place("g5.xlarge", "us-east-2a"),
                subnet: "subnet-a".to_owned(),
                max_price: Some("0.45".parse().unwrap()),
            },
            Override {
                place: place("g99.never", "us-east-2b"),
                subnet: "subnet-b".to_owned(),
                max_price: None,
            },
        ],
        tags: BTreeMap::from([("spotreel:batch".to_owned(), "g5-1".to_owned())]),
    }
}

fn place(kind: &str, zone: &str) -> Place {
    Place {
        kind: kind.to_owned(),
        zone: zone.to_owned(),
    }
}

fn error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>so it is</Message></Error></Errors><RequestID>r</RequestID></Response>"
    )
}

#[tokio::test]
async fn on_demand_has_its_cap_on_the_wire() {
    let f = fixture(|_| {
        (
            200,
            "<CreateFleetResponse><fleetId>fleet-1</fleetId></CreateFleetResponse>".to_owned(),
        )
    })
    .await;
    let on_demand = LaunchRequest {
        lifecycle: Lifecycle::OnDemand,
        ..request()
    };
    f.ec2.launch(&on_demand).await.unwrap();
    f.ec2.launch(&request()).await.unwrap();
    let asked = f.asked.lock().unwrap();
    // Four units, each at most as dear as the dearest type may be.
    assert!(
        asked[0].contains("OnDemandOptions.MaxTotalPrice=1.800000"),
        "{}",
        asked[0]
    );
    assert!(!asked[0].contains(".MaxPrice="), "{}", asked[0]);
    assert!(!asked[1].contains("MaxTotalPrice"), "{}", asked[1]);
}

#[tokio::test]
async fn a_frozen_request_goes_out_byte_for_byte() {
    let f = fixture(|_| {
        (
            200,
            "<CreateFleetResponse><fleetId>fleet-1</fleetId></CreateFleetResponse>".to_owned(),
        )
    })
    .await;
    let request = request();
    let json = serde_json::to_string(&request).unwrap();
    let thawed: LaunchRequest = serde_json::from_str(&json).unwrap();
    assert_eq!(thawed, request);
    f.ec2.launch(&request).await.unwrap();
    f.ec2.launch(&thawed).await.unwrap();
    let asked = f.asked.lock().unwrap();
    assert_eq!(asked[0], asked[1]);
    for part in [
        "Type=instant",
        "ClientToken=spotreel-token",
        "AllocationStrategy=price-capacity-optimized",
        "LaunchTemplateSpecification.Version=7",
        "Overrides.1.MaxPrice=0.450000",
        "Overrides.2.InstanceType=g99.never",
        "TotalTargetCapacity=4",
        "DefaultTargetCapacityType=spot",
        "ResourceType=instance",
        "ResourceType=volume",
        "ResourceType=network-interface",
        "ResourceType=fleet",
    ] {
        assert!(asked[0].contains(part), "{part} in {}", asked[0]);
    }
    assert!(!asked[0].contains("Overrides.2.MaxPrice"));
}

#[tokio::test]
async fn places_of_errors_come_from_the_request() {
    let f = fixture(|_| {
        let item = |code: &str, tried: &str| {
            format!(
                "<item><errorCode>{code}</errorCode><errorMessage>m</errorMessage><lifecycle>spot</lifecycle>\
                 <launchTemplateAndOverrides><overrides>{tried}</overrides></launchTemplateAndOverrides></item>"
            )
        };
        let known = item("UnfulfillableCapacity", "<instanceType>g5.xlarge</instanceType><subnetId>subnet-a</subnetId>");
        let zoned = item("Odd", "<instanceType>g6.xlarge</instanceType><availabilityZone>us-east-2c</availabilityZone>");
        let whole = item("UnauthorizedOperation", "");
        let placed = "<item><instanceIds><item>i-1</item></instanceIds><instanceType>g5.xlarge</instanceType><lifecycle>spot</lifecycle>\
                      <launchTemplateAndOverrides><overrides><instanceType>g5.xlarge</instanceType><subnetId>subnet-a</subnetId></overrides></launchTemplateAndOverrides></item>";
        (200, format!("<CreateFleetResponse><fleetId>fleet-1</fleetId><errorSet>{known}{zoned}{whole}</errorSet>\
                       <fleetInstanceSet>{placed}</fleetInstanceSet></CreateFleetResponse>"))
    })
    .await;
    let answer = f.ec2.launch(&request()).await.unwrap();
    let told: Vec<_> = answer
        .errors
        .iter()
        .map(|e| (e.place.clone(), e.class))
        .collect();
    assert_eq!(
        told,
        [
            (Some(place("g5.xlarge", "us-east-2a")), ErrorClass::Capacity),
            (Some(place("g6.xlarge", "us-east-2c")), ErrorClass::Unknown),
            (None, ErrorClass::Configuration),
        ]
    );
    assert_eq!(
        (answer.fleet.as_str(), answer.instances[0].zone.as_str()),
        ("fleet-1", "us-east-2a")
    );
}

/// A CreateFleet that is refused as a whole: what it says of capacity pools, by zone.
#[tokio::test]
async fn a_refusal_that_names_a_subnet_a_zone_or_a_type_is_theirs_alone() {
    for (code, message, zones) in [
        (
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-a' does not exist",
            &["us-east-2a"][..],
        ),
        (
            "UnauthorizedOperation",
            "User: arn:aws:iam::1:role/x is not authorized to perform: ec2:RunInstances on resource: \
             arn:aws:ec2:us-east-2:1:subnet/subnet-b because no identity-based policy allows it",
            &["us-east-2b"],
        ),
        (
            "InvalidParameterValue",
            "g5.xlarge is not supported in your requested Availability Zone (us-east-2a).",
            &["us-east-2a"],
        ),
        (
            "InvalidAMIID.NotFound",
            "The image id '[ami-1]' does not exist",
            &[],
        ),
        // Longer names that begin so are others.
        (
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-ab' does not exist",
            &[],
        ),
        (
            "RequestLimitExceeded",
            "Request limit exceeded for subnet-a",
            &[],
        ),
    ] {
        let body = error(code).replace("so it is", message);
        let f = fixture(move |_| (400, body.clone())).await;
        let refused = f.ec2.launch(&request()).await.unwrap_err();
        let told: Vec<_> = refused.places.iter().map(|p| p.zone.as_str()).collect();
        assert_eq!(told, zones, "{message}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_also_where_the_call_succeeds() {
    for (code, message, cure) in [
        (
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. Encoded authorization failure message: abc",
            "; grant ec2:CreateFleet, ec2:RunInstances, ec2:CreateTags and iam:PassRole",
        ),
        (
            "UnauthorizedOperation",
            "User: arn:aws:iam::1:role/x is not authorized to perform: iam:PassRole on resource: \
             arn:aws:iam::1:role/worker",
            "; grant iam:PassRole",
        ),
        (
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
            "The provided credentials do not have permission to create the service-linked role",
            "; make the account's role for Spot once: aws iam create-service-linked-role --aws-service-name \
             spot.amazonaws.com",
        ),
    ] {
        let body = format!(
            "<CreateFleetResponse><fleetId>fleet-1</fleetId><errorSet><item><errorCode>{code}</errorCode>\
             <errorMessage>{message}</errorMessage><lifecycle>spot</lifecycle></item></errorSet></CreateFleetResponse>"
        );
        let f = fixture(move |_| (200, body.clone())).await;
        let answer = f.ec2.launch(&request()).await.unwrap();
        assert!(
            answer.errors[0].message.ends_with(cure),
            "{}",
            answer.errors[0].message
        );
    }
}

#[tokio::test]
async fn a_template_is_told_as_ec2_describes_it() {
    let answer = |data: &str| {
        format!(
            "<DescribeLaunchTemplateVersionsResponse><launchTemplateVersionSet><item><launchTemplateId>lt-1</launchTemplateId>\
             <versionNumber>7</versionNumber><launchTemplateData>{data}</launchTemplateData></item>\
             </launchTemplateVersionSet></DescribeLaunchTemplateVersionsResponse>"
        )
    };
    let told = async |status: u16, body: String| {
        let f = fixture(move |_| (status, body.clone())).await;
        let told = f.ec2.template_version(&request().template).await;
        let asked = f.asked.lock().unwrap().join(" ");
        assert!(asked.contains("LaunchTemplateVersion.1=7"), "{asked}");
        told.unwrap()
    };
    let unfit = TemplateVersion {
        ends_on_shutdown: false,
        metadata_tags: false,
        tokens_required: false,
        spot_request_tags: BTreeMap::new(),
        volume_gib: 0,
    };
    let nothing = answer("<imageId>ami-1</imageId>");
    assert_eq!(told(200, nothing).await, Some(unfit.clone()));
    let opposite = answer(
        "<instanceInitiatedShutdownBehavior>stop</instanceInitiatedShutdownBehavior><metadataOptions>\
         <httpTokens>optional</httpTokens><instanceMetadataTags>disabled</instanceMetadataTags></metadataOptions>",
    );
    assert_eq!(told(200, opposite).await, Some(unfit));
    let fit = answer(
        "<instanceInitiatedShutdownBehavior>terminate</instanceInitiatedShutdownBehavior><metadataOptions>\
         <httpTokens>required</httpTokens><instanceMetadataTags>enabled</instanceMetadataTags></metadataOptions>\
         <tagSpecificationSet><item><resourceType>network-interface</resourceType><tagSet><item><key>a</key>\
         <value>1</value></item></tagSet></item><item><resourceType>spot-instances-request</resourceType><tagSet>\
         <item><key>cost-center</key><value>42</value></item></tagSet></item></tagSpecificationSet>\
         <blockDeviceMappingSet><item><ebs><volumeSize>100</volumeSize></ebs></item><item><ebs><volumeSize>30</volumeSize>\
         </ebs></item></blockDeviceMappingSet>",
    );
    assert_eq!(
        told(200, fit).await,
        Some(TemplateVersion {
            ends_on_shutdown: true,
            metadata_tags: true,
            tokens_required: true,
            spot_request_tags: BTreeMap::from([("cost-center".to_owned(), "42".to_owned())]),
            volume_gib: 130,
        })
    );
    let gone = error("InvalidLaunchTemplateId.VersionNotFound");
    assert_eq!(told(400, gone).await, None);
}

#[tokio::test]
async fn an_answer_that_says_nothing_may_have_launched() {
    for (status, body, maybe) in [
        (200, "<CreateFleetResponse/>".to_owned(), true),
        (200, "not XML".to_owned(), true),
        (500, error("InternalError"), true),
        (503, error("Unavailable"), true),
        (500, error("NeverHeardOf"), true),
        (504, String::new(), true),
        (503, error("RequestLimitExceeded"), false),
        (500, error("InsufficientInstanceCapacity"), false),
        (400, error("NeverHeardOf"), false),
        (403, error("UnauthorizedOperation"), false),
    ] {
        let told = (status, body.clone());
        let f = fixture(move |_| told.clone()).await;
        let error = f.ec2.launch(&request()).await.unwrap_err();
        assert_eq!(error.maybe_running, maybe, "{status} {body}: {error}");
        assert_eq!(error.class == ErrorClass::Unknown, maybe, "{error}");
        assert_eq!(f.asked.lock().unwrap().len(), 1, "one try");
    }
    // Nobody listens: to us that is a broken connection like any other.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = connect(url).await.launch(&request()).await.unwrap_err();
    assert_eq!(
        (error.class, error.maybe_running),
        (ErrorClass::Unknown, true),
        "{error}"
    );
}

#[tokio::test]
async fn a_listing_is_followed_to_its_end() {
    let f = fixture(|form| {
        let (id, next) = match form.contains("NextToken=two") {
            false => ("i-1", "<nextToken>two</nextToken>"),
            true => ("i-2", "<nextToken></nextToken>"),
        };
        (200, format!(
            "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>{id}</instanceId>\
             <instanceState><code>80</code><name>stopped</name></instanceState><launchTime>2026-11-23T10:00:00.000Z</launchTime>\
             </item></instancesSet></item></reservationSet>{next}</DescribeInstancesResponse>"
        ))
    })
    .await;
    let listing = f.ec2.list("test").await.unwrap();
    let ids: Vec<_> = listing.instances.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["i-1", "i-2"]);
    assert_eq!(listing.instances[0].state, CloudState::Stopped);
    assert!(listing.instances[0].is_alive());

    let f = fixture(|_| (200, "<DescribeInstancesResponse><nextToken>on and on</nextToken></DescribeInstancesResponse>".to_owned())).await;
    assert!(matches!(
        f.ec2.list("test").await,
        Err(CallError::Malformed { .. })
    ));
}

#[tokio::test]
async fn the_history_of_prices_has_pages_too() {
    let f = fixture(|form| {
        let row = |at: &str, product: &str, price: &str| {
            format!(
                "<item><instanceType>g5.xlarge</instanceType><productDescription>{product}</productDescription>\
                 <spotPrice>{price}</spotPrice><timestamp>{at}</timestamp><availabilityZone>us-east-2a</availabilityZone></item>"
            )
        };
        let (rows, next) = match form.contains("NextToken=two") {
            false => (row("2026-11-23T10:00:00.000Z", "Linux/UNIX", "0.377000000"), "two"),
            true => (
                row("2026-11-23T09:00:00.000Z", "Linux/UNIX", "0.300000")
                    + &row("2026-11-23T10:00:00.000Z", "Linux/UNIX (Amazon VPC)", "0.3770"),
                "",
            ),
        };
        (200, format!("<DescribeSpotPriceHistoryResponse><spotPriceHistorySet>{rows}</spotPriceHistorySet><nextToken>{next}</nextToken></DescribeSpotPriceHistoryResponse>"))
    })
    .await;
    let prices = f
        .ec2
        .spot_prices(&["g5.xlarge".to_owned()], None)
        .await
        .unwrap();
    let prices: Vec<_> = prices.iter().map(|p| p.price.micros()).collect();
    assert_eq!(prices, [300_000, 377_000]);
}

#[tokio::test]
async fn an_endpoint_without_quotas_has_none() {
    for (status, body) in [
        (404, String::new()),
        (501, "<html/>".to_owned()),
        (400, error("InvalidAction")),
        (
            400,
            r#"{"__type":"AccessDeniedException","message":"no"}"#.to_owned(),
        ),
    ] {
        let told = (status, body.clone());
        let f = fixture(move |_| told.clone()).await;
        let quota = f.ec2.quota(Lifecycle::Spot).await;
        assert_eq!(quota, Ok(None), "{status} {body}");
    }
}

/// Services run their rounds as tasks of their own.
#[tokio::test]
async fn calls_can_be_spawned() {
    let f = fixture(|_| (400, error("InvalidInstanceID.NotFound"))).await;
    let ec2 = f.ec2.clone();
    let ids = ["i-1".to_owned(), "i-2".to_owned()];
    let ended = tokio::spawn(async move {
        let fleets = ec2.delete_fleets(&ids).await;
        (
            ec2.terminate(&ids).await,
            fleets,
            ec2.launch(&request()).await,
        )
    });
    let (ended, _, launched) = ended.await.unwrap();
    assert!(
        ended
            .iter()
            .all(|(_, result)| result.as_ref().is_err_and(CallError::is_not_found))
    );
    assert!(!launched.unwrap_err().maybe_running);
    let asked = f.asked.lock().unwrap();
    let terminates = asked
        .iter()
        .filter(|form| form.contains("Action=TerminateInstances"));
    assert_eq!(terminates.count(), 3, "both, then each alone");
}
