//! The corners of S3 that the product leans on, through the real SDK.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures::future::join_all;
use spotreel_localcloud::{LocalCloud, TestCloud};

const WRITERS: usize = 20;
const ROUNDS: usize = 50;

fn client(cloud: &LocalCloud) -> Client {
    let keys = Credentials::new("local", "local-secret", None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(cloud.endpoint_url())
        .force_path_style(true)
        .credentials_provider(keys);
    Client::from_conf(config.build())
}

async fn scene() -> (TestCloud, Client) {
    let cloud = TestCloud::start().await;
    let client = client(&cloud);
    client
        .create_bucket()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    (cloud, client)
}

fn code<T, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().unwrap_or("none").to_owned(),
    }
}

async fn begin(client: &Client, key: &str) -> String {
    let begun = client
        .create_multipart_upload()
        .bucket("bucket")
        .key(key)
        .send()
        .await;
    begun.unwrap().upload_id.unwrap()
}

async fn part(client: &Client, key: &str, id: &str, number: i32, body: Vec<u8>) -> CompletedPart {
    let sent = client
        .upload_part()
        .bucket("bucket")
        .key(key)
        .upload_id(id)
        .part_number(number);
    let sent = sent.body(ByteStream::from(body)).send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(sent.e_tag)
        .build()
}

async fn complete(client: &Client, key: &str, id: &str, parts: Vec<CompletedPart>) -> String {
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let request = client
        .complete_multipart_upload()
        .bucket("bucket")
        .key(key)
        .upload_id(id);
    code(
        request
            .multipart_upload(parts)
            .if_none_match("*")
            .send()
            .await,
    )
}

#[tokio::test]
async fn of_racing_puts_one_wins() {
    let (_cloud, client) = scene().await;
    for round in 0..ROUNDS {
        let key = format!("k{round}");
        let put = |writer: usize| {
            let request = client
                .put_object()
                .bucket("bucket")
                .key(&key)
                .if_none_match("*");
            let body = ByteStream::from(format!("writer {writer}").into_bytes());
            async move { code(request.body(body).send().await) }
        };
        let codes = join_all((0..WRITERS).map(put)).await;
        let won = codes.iter().filter(|code| *code == "ok").count();
        let lost = codes
            .iter()
            .filter(|code| *code == "PreconditionFailed")
            .count();
        assert_eq!((won, lost), (1, WRITERS - 1), "{codes:?}");
        let winner = codes.iter().position(|code| code == "ok").unwrap();
        let got = client
            .get_object()
            .bucket("bucket")
            .key(&key)
            .send()
            .await
            .unwrap();
        let body = got.body.collect().await.unwrap().into_bytes();
        assert_eq!(body, format!("writer {winner}"));
    }
}

#[tokio::test]
async fn of_racing_completes_one_wins() {
    let (_cloud, client) = scene().await;
    for round in 0..ROUNDS {
        let key = format!("k{round}");
        let ready = join_all((0..WRITERS).map(|writer| {
            let (client, key) = (&client, &key);
            async move {
                let id = begin(client, key).await;
                let part = part(client, key, &id, 1, vec![0; writer]).await;
                (id, part)
            }
        }));
        let ready = ready.await;
        let all = ready
            .iter()
            .map(|(id, part)| complete(&client, &key, id, vec![part.clone()]));
        let codes = join_all(all).await;
        let won = codes.iter().filter(|code| *code == "ok").count();
        assert_eq!(won, 1, "{codes:?}");
        assert!(
            codes
                .iter()
                .all(|code| code == "ok" || code == "PreconditionFailed"),
            "{codes:?}"
        );
    }
}

#[tokio::test]
async fn an_upload_is_bound_to_its_key_and_its_parts() {
    let (_cloud, client) = scene().await;
    let id = begin(&client, "k").await;
    let one = part(&client, "k", &id, 1, vec![1; 5 << 20]).await;
    let two = part(&client, "k", &id, 2, vec![2; 10]).await;
    let wrong = CompletedPart::builder()
        .part_number(2)
        .e_tag("\"0123\"")
        .build();
    assert_eq!(
        complete(&client, "other", &id, vec![one.clone()]).await,
        "NoSuchUpload"
    );
    assert_eq!(
        complete(&client, "k", &id, vec![one.clone(), wrong]).await,
        "InvalidPart"
    );
    let swapped = vec![two.clone(), one.clone()];
    assert_eq!(
        complete(&client, "k", &id, swapped).await,
        "InvalidPartOrder"
    );
    let listed = client
        .list_parts()
        .bucket("bucket")
        .key("k")
        .upload_id(&id)
        .max_parts(1);
    let listed = listed.send().await.unwrap();
    assert_eq!((listed.parts().len(), listed.is_truncated), (1, Some(true)));
    let uploads = client
        .list_multipart_uploads()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
    assert_eq!(complete(&client, "k", &id, vec![one, two]).await, "ok");
    let abort = || {
        client
            .abort_multipart_upload()
            .bucket("bucket")
            .key("k")
            .upload_id(&id)
            .send()
    };
    assert_eq!(code(abort().await), "NoSuchUpload");
    let head = client
        .head_object()
        .bucket("bucket")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length, Some((5 << 20) + 10));
    assert!(head.e_tag.unwrap().ends_with("-2\""));

    let id = begin(&client, "small").await;
    let one = part(&client, "small", &id, 1, vec![1; 10]).await;
    let two = part(&client, "small", &id, 2, vec![2; 10]).await;
    assert_eq!(
        complete(&client, "small", &id, vec![one, two]).await,
        "EntityTooSmall"
    );
}

#[tokio::test]
async fn wrong_checksums_leave_nothing() {
    let (cloud, client) = scene().await;
    let put = || {
        client
            .put_object()
            .bucket("bucket")
            .key("k")
            .body(ByteStream::from_static(b"x"))
    };
    assert_eq!(
        code(put().checksum_sha256("AAAA").send().await),
        "BadDigest"
    );
    assert_eq!(
        code(put().checksum_crc32("AAAAAA==").send().await),
        "BadDigest"
    );
    assert_eq!(
        code(put().checksum_crc32_c("AAAAAA==").send().await),
        "BadDigest"
    );
    let md5 = "AAAAAAAAAAAAAAAAAAAAAA==";
    assert_eq!(code(put().content_md5(md5).send().await), "BadDigest");
    let get = client.get_object().bucket("bucket").key("k").send().await;
    assert_eq!(code(get), "NoSuchKey");
    assert_eq!(
        std::fs::read_dir(cloud.data().join("incoming"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn answers_carry_the_right_codes() {
    let (_cloud, client) = scene().await;
    let get = client.get_object().bucket("nowhere").key("k").send().await;
    assert_eq!(code(get), "NoSuchBucket");
    let put = client.put_object().bucket("nowhere").key("k").send().await;
    assert_eq!(code(put), "NoSuchBucket");
    let tagged = client
        .put_object()
        .bucket("bucket")
        .key("k")
        .tagging("a=b")
        .send()
        .await;
    assert_eq!(code(tagged), "NotImplemented");
    let put = client
        .put_object()
        .bucket("bucket")
        .key("k")
        .body(ByteStream::from_static(b"x"));
    let etag = put.send().await.unwrap().e_tag.unwrap();
    let get = || client.get_object().bucket("bucket").key("k");
    let same = get().if_none_match(&etag).send().await.unwrap_err();
    assert_eq!(same.raw_response().unwrap().status().as_u16(), 304);
    assert_eq!(
        code(get().if_match("\"other\"").send().await),
        "PreconditionFailed"
    );
    let stranger = Credentials::new("local", "wrong", None, None, "test");
    let stranger = client
        .config()
        .to_builder()
        .credentials_provider(stranger)
        .build();
    let list = Client::from_conf(stranger)
        .list_objects_v2()
        .bucket("bucket")
        .send()
        .await;
    assert_eq!(code(list), "SignatureDoesNotMatch");
    assert_eq!(
        code(client.delete_bucket().bucket("bucket").send().await),
        "BucketNotEmpty"
    );
}

#[tokio::test]
async fn keys_stay_in_the_bucket_and_copies_keep_what_is_known() {
    let (cloud, client) = scene().await;
    let key = "../../../escaped";
    let put = client
        .put_object()
        .bucket("bucket")
        .key(key)
        .metadata("a", "b");
    put.content_type("video/mp4")
        .body(ByteStream::from_static(b"x"))
        .send()
        .await
        .unwrap();
    assert!(!cloud.dir.path().join("escaped").exists());
    let copy = client
        .copy_object()
        .bucket("bucket")
        .key("copy")
        .copy_source("bucket/../../../escaped");
    copy.send().await.unwrap();
    let got = client
        .get_object()
        .bucket("bucket")
        .key("copy")
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("video/mp4"));
    assert_eq!(got.metadata().unwrap()["a"], "b");
    let listed = client
        .list_objects_v2()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    let keys: Vec<_> = listed
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .collect();
    assert_eq!(keys, [key, "copy"]);
}

#[tokio::test]
async fn faults_are_ordered_over_http() {
    let (cloud, client) = scene().await;
    let url = format!("http://{}/faults", cloud.admin_addr.unwrap());
    let http = reqwest::Client::new();
    let plan = r#"{"seed": 1, "rules": [
        {"op": "PutObject", "action": "delay", "delay_ms": 50},
        {"op": "PutObject", "action": "503_slow_down", "times": 1, "key_prefix": "a/"}]}"#;
    let post = |body: &'static str| {
        http.post(&url)
            .header("content-type", "application/json")
            .body(body)
            .send()
    };
    assert_eq!(post(plan).await.unwrap().status(), 204);
    assert_eq!(
        post(r#"{"rules": [{"op": "*", "akshun": 1}]}"#)
            .await
            .unwrap()
            .status(),
        422
    );
    let began = std::time::Instant::now();
    client
        .put_object()
        .bucket("bucket")
        .key("a/1")
        .send()
        .await
        .unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "two tries, each delayed"
    );
    let report = http.get(&url).send().await.unwrap().text().await.unwrap();
    assert!(report.contains(r#""matched":2,"fired":1"#), "{report}");
    assert_eq!(http.delete(&url).send().await.unwrap().status(), 204);
    assert_eq!(
        http.get(&url).send().await.unwrap().text().await.unwrap(),
        "[]"
    );
    let live = format!("http://{}/livez", cloud.admin_addr.unwrap());
    assert_eq!(http.get(live).send().await.unwrap().status(), 200);
}
