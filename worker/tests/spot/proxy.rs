//! A way to the NATS server that can fail: reads of the log get lost, all that the worker says waits, or it is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const READ: &[u8] = b"$JS.API.STREAM.MSG.GET.TASKS";

#[derive(Default)]
pub struct Losses {
    /// Set, one more read arrives; those behind it are lost until it is taken back.
    pub armed: AtomicBool,
    pub reads: AtomicUsize,
    /// Set, what the worker says waits, on connections that stay.
    pub stalled: watch::Sender<bool>,
    /// Set, there is no connection.
    pub cut: watch::Sender<bool>,
}

impl Losses {
    fn loses(&self, subject: &[u8]) -> bool {
        let counts = subject == READ && self.armed.load(Ordering::SeqCst);
        counts && self.reads.fetch_add(1, Ordering::SeqCst) > 0
    }
}

/// The address of the proxy, as a URL.
pub async fn serve(server: &str, losses: Arc<Losses>) -> String {
    let server = server.trim_start_matches("nats://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if *losses.cut.borrow() {
                continue;
            }
            let server = TcpStream::connect(&server).await.unwrap();
            let (from_client, mut to_client) = client.into_split();
            let (mut from_server, to_server) = server.into_split();
            let losses = Arc::clone(&losses);
            tokio::spawn(async move {
                let mut cut = losses.cut.subscribe();
                tokio::select! {
                    () = forward(from_client, to_server, Arc::clone(&losses)) => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                    _ = cut.wait_for(|cut| *cut) => {}
                }
            });
        }
    });
    url
}

/// Client to server, one operation at a time.
async fn forward(from: OwnedReadHalf, mut to: OwnedWriteHalf, losses: Arc<Losses>) {
    let mut from = BufReader::new(from);
    let mut stalled = losses.stalled.subscribe();
    loop {
        let _ = stalled.wait_for(|stalled| !stalled).await;
        let mut operation = Vec::new();
        match from.read_until(b'\n', &mut operation).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let line = operation.clone();
        let words: Vec<_> = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .collect();
        if matches!(words.first(), Some(&b"PUB" | &b"HPUB")) {
            let size = std::str::from_utf8(words.last().unwrap()).unwrap();
            let size: usize = size.parse().unwrap();
            let mut body = vec![0; size + 2];
            from.read_exact(&mut body).await.unwrap();
            operation.extend(body);
            if losses.loses(words[1]) {
                continue;
            }
        }
        if to.write_all(&operation).await.is_err() {
            return;
        }
    }
}
