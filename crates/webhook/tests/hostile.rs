//! Receivers that do what they can to hold up, mislead or flood the client.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jiff::Timestamp;
use spotreel_domain::webhook::{
    AllowedHosts, DeliveryAttempt, DeliveryVerdict, SECRET_BYTES, SigningSecrets, WebhookSecret,
    WebhookUrl,
};
use spotreel_webhook::{Lookup, Sender, SignedDelivery};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_millis(500);
/// Deadline, the reading of an answer, and a slow machine.
const PATIENCE: Duration = Duration::from_secs(5);
const BODY: &[u8] = br#"{"id":"t1/7"}"#;

fn secrets() -> SigningSecrets {
    SigningSecrets::new(WebhookSecret::new([5; SECRET_BYTES]))
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn allowing(hosts: &[&str]) -> Sender {
    let allowed = AllowedHosts::new(hosts.iter().map(|&host| host.to_owned()));
    Sender::new(allowed, DEADLINE).unwrap()
}

async fn send(sender: &Sender, url: &str) -> DeliveryAttempt {
    let target = WebhookUrl::parse(url).unwrap();
    let secrets = secrets();
    let delivery = SignedDelivery {
        target: &target,
        id: "t1/7",
        body: BODY,
        secrets: &secrets,
    };
    let began = Instant::now();
    let attempt = sender.send(delivery, now()).await;
    assert!(
        began.elapsed() < PATIENCE,
        "{url} held it up for {:?}",
        began.elapsed()
    );
    attempt
}

/// A receiver that does `answer` with each connection; returns its URL and what it was sent.
async fn receiver<F, Fut>(answer: F) -> (String, mpsc::UnboundedReceiver<String>)
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (heard, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let _ = heard.send(String::from_utf8_lossy(&head[..read]).into_owned());
            tokio::spawn(answer(stream));
        }
    });
    (url, requests)
}

async fn say(mut stream: TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.flush().await;
}

async fn answering(text: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
    receiver(move |stream| say(stream, text)).await
}

#[tokio::test]
async fn a_good_receiver_gets_a_signed_request() {
    let (url, mut requests) = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
    assert_eq!(
        (attempt.verdict(), attempt.reason()),
        (DeliveryVerdict::Delivered, None)
    );
    let request = requests.recv().await.unwrap();
    let signature = secrets().signature("t1/7", now(), BODY);
    for part in [
        "POST /hook HTTP/1.1\r\n",
        "content-type: application/cloudevents+json\r\n",
        "webhook-id: t1/7\r\n",
        "webhook-timestamp: 1700000000\r\n",
        &format!("webhook-signature: {signature}\r\n"),
        r#"{"id":"t1/7"}"#,
    ] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_one_deadline() {
    let (url, _requests) = receiver(|stream| async move {
        let _held = stream;
        tokio::time::sleep(PATIENCE * 2).await;
    })
    .await;
    let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
    assert_eq!(attempt.reason().unwrap(), "no answer within 0.5 s");
}

#[tokio::test]
async fn headers_that_drip_cost_one_deadline() {
    let (url, _requests) = receiver(|mut stream| async move {
        for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(&[b'a'; 1_000]) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(send(&allowing(&["127.0.0.1"]), &url).await.status, None);
}

#[tokio::test]
async fn a_body_that_drips_does_not_undo_the_status_and_costs_a_second() {
    let (url, _requests) = receiver(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            .await;
        for _ in 0..1_000 {
            if stream.write_all(b"a").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
    assert_eq!(attempt.verdict(), DeliveryVerdict::Delivered);
}

#[tokio::test]
async fn of_ten_megabytes_little_is_read() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let (closed, mut is_closed) = mpsc::unbounded_channel();
    let (url, _requests) = receiver(move |mut stream| {
        let (counted, closed) = (Arc::clone(&counted), closed.clone());
        async move {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n")
                .await;
            for _ in 0..160 {
                if stream.write_all(&[b'a'; 65_536]).await.is_err() {
                    break;
                }
                counted.fetch_add(65_536, Ordering::SeqCst);
            }
            let _ = closed.send(());
        }
    })
    .await;
    let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
    assert_eq!(attempt.verdict(), DeliveryVerdict::Delivered);
    // The rest lies in buffers of the kernel.
    tokio::time::timeout(PATIENCE, is_closed.recv())
        .await
        .expect("the connection is closed");
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken < 8 << 20, "{taken} bytes were taken");
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let (url, _requests) = receiver(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream
            .write_all(&[b"x: ".as_slice(), &[b'a'; 4_096], b"\r\n"].concat())
            .await
            .is_ok()
        {}
    })
    .await;
    assert_eq!(send(&allowing(&["127.0.0.1"]), &url).await.status, None);
}

#[tokio::test]
async fn resets_closed_ports_and_noise_are_failures_that_say_why() {
    let (reset, _requests) = receiver(|stream| async move {
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (noise, _requests) = answering("SSH-2.0-OpenSSH_9.2\r\n").await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/?token=hidden", listener.local_addr().unwrap())
    };
    let tls = reset.replace("http:", "https:");
    for url in [reset, noise, closed, tls] {
        let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
        let reason = attempt.reason().unwrap();
        assert_eq!(attempt.status, None, "{url}");
        assert!(
            !reason.is_empty() && !reason.contains("hidden"),
            "{url}: {reason}"
        );
        assert!(
            !reason.contains("SSH"),
            "what a receiver writes is not told: {reason}"
        );
    }
}

#[tokio::test]
async fn redirects_are_failures_and_nobody_goes_there() {
    let (inside, mut visited) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let location = inside.clone();
        let (url, _requests) = receiver(move |stream| {
            let answer = format!(
                "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            );
            async move { say(stream, &answer).await }
        })
        .await;
        let attempt = send(&allowing(&["127.0.0.1"]), &url).await;
        assert_eq!(
            (attempt.status, attempt.verdict()),
            (Some(status), DeliveryVerdict::Failed)
        );
    }
    assert!(visited.try_recv().is_err());
}

#[tokio::test]
async fn throttling_and_gone_are_understood() {
    let (busy, _requests) =
        answering("HTTP/1.1 429 Busy\r\nretry-after: 120\r\ncontent-length: 0\r\n\r\n").await;
    let (gone, _requests) = answering("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await;
    let sender = allowing(&["127.0.0.1"]);
    let attempt = send(&sender, &busy).await;
    assert_eq!(attempt.verdict(), DeliveryVerdict::Throttled);
    assert_eq!(attempt.retry_after, Some(Duration::from_secs(120)));
    assert_eq!(send(&sender, &gone).await.verdict(), DeliveryVerdict::Gone);
}

#[tokio::test]
async fn addresses_inside_are_refused_before_anybody_connects() {
    let (url, mut visited) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = url.rsplit(':').next().unwrap().to_owned();
    let sender = allowing(&[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
    ] {
        let attempt = send(&sender, &format!("http://{host}:{port}")).await;
        let reason = attempt.reason().unwrap();
        assert!(reason.contains("not a public address"), "{host}: {reason}");
    }
    assert!(visited.try_recv().is_err());
}

fn dns(
    answers: impl Fn(usize) -> Vec<IpAddr> + Send + Sync + 'static,
) -> (Lookup, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup: Lookup = Arc::new(move |_| {
        let found = answers(count.fetch_add(1, Ordering::SeqCst));
        async move { Ok(found) }.boxed()
    });
    (lookup, asked)
}

#[tokio::test]
async fn a_name_with_one_address_inside_is_refused_whole() {
    let (lookup, _) = dns(|_| {
        vec![
            "93.184.216.34".parse().unwrap(),
            "10.0.0.1".parse().unwrap(),
        ]
    });
    let sender = Sender::with_lookup(lookup, AllowedHosts::default(), DEADLINE).unwrap();
    let attempt = send(&sender, "http://evil.example/").await;
    let reason = attempt.reason().unwrap();
    assert_eq!(reason, "the name has an address that is not public");
}

#[tokio::test]
async fn metadata_is_never_reached_by_name_even_if_its_host_is_allowed() {
    let (lookup, _) = dns(|_| vec!["169.254.169.254".parse().unwrap()]);
    let allowed = AllowedHosts::new(["metadata.internal".to_owned()]);
    let sender = Sender::with_lookup(lookup, allowed, DEADLINE).unwrap();
    let attempt = send(&sender, "http://metadata.internal/").await;
    assert_eq!(
        attempt.reason().unwrap(),
        "the name has an address that is not public"
    );
}

#[tokio::test]
async fn rebinding_leads_nowhere_because_a_name_is_asked_for_once_a_connection() {
    let (url, mut visited) =
        answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let url = url.replace("127.0.0.1", "rebind.example");
    // The address that was checked is the one that is used; the next connection checks the next answer.
    let (lookup, asked) = dns(|before| match before {
        0 => vec!["127.0.0.1".parse().unwrap()],
        _ => vec!["169.254.169.254".parse().unwrap()],
    });
    let allowed = AllowedHosts::new(["rebind.example".to_owned()]);
    let sender = Sender::with_lookup(lookup, allowed, DEADLINE).unwrap();
    assert_eq!(
        send(&sender, &url).await.verdict(),
        DeliveryVerdict::Delivered
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(visited.recv().await.is_some());
    let attempt = send(&sender, &url).await;
    assert_eq!(
        attempt.reason().unwrap(),
        "the name has an address that is not public"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

const PROXY: &str = "http_proxy";

/// The variable is that of another process: this one's other tests must not see it.
#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let (proxy, mut visited) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    let child = child
        .args([
            "--exact",
            "a_name_without_an_address_is_asked_of_nobody_else",
            "--ignored",
        ])
        .env(PROXY, proxy.replace("/hook", ""))
        .output();
    let child = child.await.unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
    assert!(visited.try_recv().is_err());
}

#[tokio::test]
#[ignore = "run by proxies_of_the_environment_are_not_used, with a proxy in its environment"]
async fn a_name_without_an_address_is_asked_of_nobody_else() {
    assert!(std::env::var_os(PROXY).is_some());
    let (lookup, _) = dns(|_| Vec::new());
    let sender = Sender::with_lookup(lookup, AllowedHosts::default(), DEADLINE).unwrap();
    let attempt = send(&sender, "http://nowhere.example/").await;
    assert_eq!(attempt.reason().unwrap(), "the name has no address");
}
