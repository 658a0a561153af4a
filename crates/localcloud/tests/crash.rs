//! The program, killed in the middle of things.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod ec2_stage;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;

struct Program(Child);

impl Program {
    fn kill(&mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> (Program, Client, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spotreel-localcloud"))
        .args(["--listen", "127.0.0.1:0", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line.trim().strip_prefix("ready s3=").unwrap().to_owned();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(&url)
        .force_path_style(true)
        .credentials_provider(Credentials::new(
            "local",
            "local-secret",
            None,
            None,
            "test",
        ));
    (Program(child), Client::from_conf(config.build()), url)
}

async fn body(client: &Client, key: &str) -> Vec<u8> {
    let got = client
        .get_object()
        .bucket("bucket")
        .key(key)
        .send()
        .await
        .unwrap();
    got.body.collect().await.unwrap().to_vec()
}

#[tokio::test]
async fn a_kill_during_an_upload_leaves_the_old_object() {
    let dir = tempfile::tempdir().unwrap();
    let (mut program, client, url) = start(dir.path());
    client
        .create_bucket()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    let put = |text: &'static [u8]| {
        let request = client
            .put_object()
            .bucket("bucket")
            .key("k")
            .metadata("a", "b");
        request.body(ByteStream::from_static(text)).send()
    };
    put(b"old").await.unwrap();
    let upload = client
        .create_multipart_upload()
        .bucket("bucket")
        .key("m")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id.unwrap();
    let part = client
        .upload_part()
        .bucket("bucket")
        .key("m")
        .upload_id(&id)
        .part_number(1);
    part.body(ByteStream::from_static(b"part"))
        .send()
        .await
        .unwrap();

    // Half of a body, by hand: no SDK stops in the middle.
    let link = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let link = client
        .put_object()
        .bucket("bucket")
        .key("k")
        .presigned(link)
        .await
        .unwrap();
    let path = link.uri().strip_prefix(&url).unwrap();
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000000\r\n"
    )
    .unwrap();
    for (name, value) in link.headers() {
        write!(stream, "{name}: {value}\r\n").unwrap();
    }
    stream.write_all(b"\r\n").unwrap();
    stream.write_all(&vec![7; 4_000_000]).unwrap();
    let incoming = dir.path().join("incoming");
    let half = async {
        let written = |entry: std::io::Result<std::fs::DirEntry>| {
            entry
                .and_then(|entry| entry.metadata())
                .map_or(0, |about| about.len())
        };
        while std::fs::read_dir(&incoming)
            .unwrap()
            .map(written)
            .sum::<u64>()
            < 1_000_000
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), half)
        .await
        .unwrap();
    program.kill();

    let (_program, client, _) = start(dir.path());
    assert_eq!(body(&client, "k").await, b"old");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0);
    let head = client
        .head_object()
        .bucket("bucket")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.metadata().unwrap()["a"], "b");
    let parts = client
        .list_parts()
        .bucket("bucket")
        .key("m")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(parts.parts().len(), 1);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (_program, ..) = start(dir.path());
    let second = Command::new(env!("CARGO_BIN_EXE_spotreel-localcloud"))
        .args(["--listen", "127.0.0.1:0", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("used by another process"), "{said}");
}

#[tokio::test]
async fn machines_of_a_killed_program_are_ended_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (mut program, _, url) = start(dir.path());
    let ec2 = ec2_stage::Ec2::new(url);
    let template = ec2
        .template("echo $$ > pid.draft; mv pid.draft pid; exec sleep 600")
        .await;
    let ids = ec2.fleet(&template, 1, "t").await.instance_ids();
    let file = dir.path().join("machines").join(&ids[0]).join("pid");
    let pid = ec2_stage::until("the machine runs", || std::fs::read_to_string(&file).ok()).await;
    let pid = pid.trim().parse().unwrap();
    program.kill();
    assert!(ec2_stage::runs(pid), "nobody was there to end it");
    let (_program, ..) = start(dir.path());
    assert!(!ec2_stage::runs(pid));
}
