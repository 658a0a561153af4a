//! Ranges of a store whose connections break.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use spotreel_s3::{GetRangeError, Keys, Store, StoreConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_range_that_breaks_off_is_gone_on_with() {
    let body: Vec<u8> = (0..3_000_000u32)
        .map(|at| at.to_le_bytes()[at as usize % 3])
        .collect();
    let server = Breaking::start(body.clone()).await;
    let config = StoreConfig::at(&server.url, "eu-central-1", "artifacts");
    let keys = Keys::new("local", "local-secret");
    let store = Store::connect_with_keys(&config, keys).await;
    let mut got = BytesMut::new();
    store
        .get_range("k", 1_000..2_900_000, &mut got)
        .await
        .unwrap();
    assert!(got == body[1_000..2_900_000]);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(asked[0], "bytes=1000-2899999");
    for (at, range) in asked.iter().enumerate() {
        assert_eq!(*range, format!("bytes={}-2899999", 1_000 + at * CHUNK));
    }
    // A store that sends the whole object all the same is not believed.
    server.ignore_ranges.store(true, Ordering::Relaxed);
    let whole = store.get_range("k", 1_000..2_000, &mut got).await;
    assert!(
        matches!(whole, Err(GetRangeError::Unranged { .. })),
        "{whole:?}"
    );
}

/// What [`Breaking`] sends before it hangs up.
const CHUNK: usize = 1_000_000;

/// A store that breaks off every body after [`CHUNK`] bytes.
struct Breaking {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    ignore_ranges: Arc<AtomicBool>,
}

impl Breaking {
    async fn start(body: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ignore_ranges = Arc::new(AtomicBool::new(false));
        let (heard, ignore) = (Arc::clone(&asked), Arc::clone(&ignore_ranges));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let range = range_of(&mut stream).await;
                heard.lock().unwrap().push(range.clone());
                let ends = range.trim_start_matches("bytes=").split_once('-').unwrap();
                let (from, to): (usize, usize) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
                let head = match ignore.load(Ordering::Relaxed) {
                    true => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()),
                    false => format!(
                        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\n\
                         content-range: bytes {from}-{to}/{}\r\n\r\n",
                        to + 1 - from,
                        body.len()
                    ),
                };
                let sent = &body[from..(to + 1).min(from + CHUNK)];
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(sent).await.unwrap();
            }
        });
        Self {
            url,
            asked,
            ignore_ranges,
        }
    }
}

async fn range_of(stream: &mut TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    let mut range = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| *name == "range") {
            range = value.to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    range
}
