use aws_config::imds::client::{Client, error::ImdsError};
use reqwest::StatusCode;

use super::*;

fn facts() -> ImdsFacts {
    ImdsFacts {
        instance_id: "i-0123".to_owned(),
        instance_type: "g5.xlarge".to_owned(),
        region: "us-east-2".to_owned(),
        zone: "us-east-2b".to_owned(),
        zone_id: "use2-az2".to_owned(),
        image_id: "ami-1".to_owned(),
        account_id: "123456789012".to_owned(),
        lifecycle: "spot".to_owned(),
        tags: BTreeMap::from([("spotreel:pool".to_owned(), "default".to_owned())]),
        private_ip: "10.0.0.7".to_owned(),
        pending_time: Timestamp::from_second(1_800_000_000).unwrap(),
        keys: None,
    }
}

fn sdk(imds: &Imds) -> Client {
    let builder = Client::builder().endpoint(imds.endpoint()).unwrap();
    builder.max_attempts(1).build()
}

async fn ask(client: &Client, path: &str) -> Option<String> {
    match client.get(path).await {
        Ok(text) => Some(text.as_ref().to_owned()),
        Err(ImdsError::ErrorResponse(error)) if error.response().status().as_u16() == 404 => None,
        Err(error) => panic!("{path}: {error:?}"),
    }
}

#[tokio::test]
async fn the_sdk_reads_all_that_a_worker_asks_for() {
    let imds = Imds::start(facts()).await.unwrap();
    let client = sdk(&imds);
    for (path, text) in [
        ("instance-id", "i-0123"),
        ("instance-type", "g5.xlarge"),
        ("instance-life-cycle", "spot"),
        ("placement/region", "us-east-2"),
        ("placement/availability-zone", "us-east-2b"),
        ("placement/availability-zone-id", "use2-az2"),
        (
            "placement/",
            "availability-zone\navailability-zone-id\nregion",
        ),
        ("ami-id", "ami-1"),
        ("local-ipv4", "10.0.0.7"),
        ("tags/instance", "spotreel:pool"),
        ("tags/instance/spotreel:pool", "default"),
    ] {
        let found = ask(&client, &format!("/latest/meta-data/{path}")).await;
        assert_eq!(found.as_deref(), Some(text), "{path}");
    }
    for path in [
        "spot/instance-action",
        "events/recommendations/rebalance",
        "iam/security-credentials/",
        "tags/instance/spotreel",
        "nonsense",
        "instance-idle",
    ] {
        let found = ask(&client, &format!("/latest/meta-data/{path}")).await;
        assert_eq!(found, None, "{path}");
    }
    let document = ask(&client, "/latest/dynamic/instance-identity/document").await;
    let document: serde_json::Value = serde_json::from_str(&document.unwrap()).unwrap();
    assert_eq!(document["instanceId"], "i-0123");
    assert_eq!(document["pendingTime"], "2027-01-15T08:00:00Z");
}

#[tokio::test]
async fn a_notice_comes_and_goes() {
    let imds = Imds::start(facts()).await.unwrap();
    let client = sdk(&imds);
    let at = Timestamp::from_second(1_800_000_120).unwrap();
    imds.set_instance_action(Some(("terminate".to_owned(), at)));
    imds.set_rebalance(Some(at));
    imds.set_tags(BTreeMap::new());
    assert_eq!(
        ask(&client, "/latest/meta-data/spot/instance-action")
            .await
            .unwrap(),
        r#"{"action":"terminate","time":"2027-01-15T08:02:00Z"}"#
    );
    assert_eq!(
        ask(
            &client,
            "/latest/meta-data/events/recommendations/rebalance"
        )
        .await
        .unwrap(),
        r#"{"noticeTime":"2027-01-15T08:02:00Z"}"#
    );
    assert_eq!(ask(&client, "/latest/meta-data/tags/instance").await, None);
    imds.set_instance_action(None);
    assert_eq!(
        ask(&client, "/latest/meta-data/spot/instance-action").await,
        None
    );
}

#[tokio::test]
async fn a_role_has_keys() {
    let imds = Imds::start(ImdsFacts {
        keys: Some(("local".to_owned(), "local-secret".to_owned())),
        ..facts()
    });
    let imds = imds.await.unwrap();
    let provider = aws_config::imds::credentials::ImdsCredentialsProvider::builder()
        .imds_client(sdk(&imds))
        .build();
    use aws_sdk_s3::config::ProvideCredentials;
    let keys = provider.provide_credentials().await.unwrap();
    assert_eq!(
        (keys.access_key_id(), keys.secret_access_key()),
        ("local", "local-secret")
    );
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_told() {
    let imds = Imds::start(facts()).await.unwrap();
    let http = reqwest::Client::new();
    let url = format!("{}/latest/meta-data/instance-id", imds.endpoint());
    let tokens = format!("{}/latest/api/token", imds.endpoint());
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();

    assert_eq!(status(http.get(&url)).await, StatusCode::UNAUTHORIZED);
    let wrong = http.get(&url).header(TOKEN, "AQAEAL-wrong==");
    assert_eq!(status(wrong).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(http.put(&url)).await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        status(http.get(&tokens)).await,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(status(http.put(&tokens)).await, StatusCode::BAD_REQUEST);
    for ttl in ["0", "21601", "-1", "soon", ""] {
        let put = http.put(&tokens).header(TOKEN_TTL, ttl);
        assert_eq!(status(put).await, StatusCode::BAD_REQUEST, "{ttl}");
    }
    let put = http
        .put(&tokens)
        .header(TOKEN_TTL, "21600")
        .send()
        .await
        .unwrap();
    assert_eq!(put.headers()[TOKEN_TTL], "21600");
    let token = put.text().await.unwrap();
    let get = http.get(&url).header(TOKEN, &token);
    assert_eq!(status(get).await, StatusCode::OK);

    let past = Instant::now() - Duration::from_millis(1);
    locked(&imds.shared.tokens).insert(token.clone(), past);
    let get = http.get(&url).header(TOKEN, &token);
    assert_eq!(
        status(get).await,
        StatusCode::UNAUTHORIZED,
        "its time is over"
    );
}

#[tokio::test]
async fn it_stops_when_dropped() {
    let imds = Imds::start(facts()).await.unwrap();
    let address = imds.address;
    drop(imds);
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await;
    assert!(refused.is_ok());
}
