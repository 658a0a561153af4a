//! Receivers of webhooks: good ones, and such as do what they can to hold up or mislead notifier.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spotreel_domain::webhook::{SigningSecrets, WebhookSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The file in which received requests are kept for another verifier; see tests/py/webhooks.py.
const KEPT: &str = "SPOTREEL_KEPT_WEBHOOKS";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Answers with its status.
    Answers,
    Hangs,
    Resets,
    /// To itself.
    Redirects,
    TenMegabytes,
}

pub struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl Receiver {
    pub async fn good() -> Self {
        Self::begin(Manner::Answers, Duration::ZERO).await
    }

    /// `takes` is how long it works on each request.
    pub async fn begin(manner: Manner, takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            status: Arc::new(AtomicU16::new(200)),
            received: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
        };
        let (status, received) = (Arc::clone(&this.status), Arc::clone(&this.received));
        let (at_once, most) = (Arc::clone(&this.at_once), Arc::clone(&this.most_at_once));
        let url = this.url();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (status, received) = (Arc::clone(&status), Arc::clone(&received));
                let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
                let url = url.clone();
                tokio::spawn(async move {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    answer(stream, manner, takes, &status, &received, &url).await;
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?token=hidden", self.address)
    }

    /// The same receiver under another name.
    pub fn url_as(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.address.port())
    }

    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    pub fn ids(&self) -> BTreeSet<String> {
        let received = self.received.lock();
        received
            .iter()
            .map(|one| one.header("webhook-id"))
            .collect()
    }
}

impl Received {
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).cloned().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Panics unless one of the signatures is that of `secret`, now.
    pub fn verify(&self, secret: &str) {
        let at: i64 = self.header("webhook-timestamp").parse().unwrap();
        let at = Timestamp::from_second(at).unwrap();
        let age = spotreel_bootstrap::ambient::now().duration_since(at);
        assert!(age.as_secs().abs() < 300, "{at}");
        let secrets = SigningSecrets::new(WebhookSecret::parse(secret).unwrap());
        let wanted = secrets.signature(&self.header("webhook-id"), at, &self.body);
        let given = self.header("webhook-signature");
        assert!(
            given.split(' ').any(|one| one == wanted),
            "{given} lacks {wanted}"
        );
        keep(self, secret);
    }
}

/// For a verifier that is not ours.
fn keep(received: &Received, secret: &str) {
    let Some(path) = std::env::var_os(KEPT) else {
        return;
    };
    let line = json!({
        "secret": secret,
        "headers": received.headers,
        "body": String::from_utf8(received.body.clone()).unwrap(),
    });
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    writeln!(file, "{line}").unwrap();
}

async fn answer(
    mut stream: TcpStream,
    manner: Manner,
    takes: Duration,
    status: &AtomicU16,
    received: &Mutex<Vec<Received>>,
    url: &str,
) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    received.lock().push(request);
    tokio::time::sleep(takes).await;
    let text = match manner {
        Manner::Answers => {
            let status = status.load(Ordering::SeqCst);
            format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        Manner::Redirects => {
            format!("HTTP/1.1 307 x\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n")
        }
        Manner::TenMegabytes => "HTTP/1.1 500 x\r\ncontent-length: 10485760\r\n\r\n".to_owned(),
        // Until the other side has had enough.
        Manner::Hangs => return drop(stream.read(&mut [0]).await),
        Manner::Resets => return stream.set_zero_linger().unwrap(),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    if manner == Manner::TenMegabytes {
        for _ in 0..160 {
            if stream.write_all(&[b'a'; 65_536]).await.is_err() {
                return;
            }
        }
    }
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    let head = loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let headers: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    let mut body = bytes[head + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received { headers, body })
}
