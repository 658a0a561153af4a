//! A way to the NATS server on which the worker's reads of the log can be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const READ: &[u8] = b"$JS.API.STREAM.MSG.GET.TASKS";

#[derive(Default)]
pub struct Losses {
    /// Set, one more read arrives; those behind it are lost until it is taken back.
    pub armed: AtomicBool,
    pub reads: AtomicUsize,
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
            let server = TcpStream::connect(&server).await.unwrap();
            let (from_client, mut to_client) = client.into_split();
            let (mut from_server, to_server) = server.into_split();
            tokio::spawn(forward(from_client, to_server, Arc::clone(&losses)));
            tokio::spawn(async move {
                drop(tokio::io::copy(&mut from_server, &mut to_client).await);
            });
        }
    });
    url
}

/// Client to server, one operation at a time.
async fn forward(from: OwnedReadHalf, mut to: OwnedWriteHalf, losses: Arc<Losses>) {
    let mut from = BufReader::new(from);
    loop {
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
