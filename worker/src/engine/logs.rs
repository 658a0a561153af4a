//! The engine's stdout and stderr: never parsed, kept for error reports, passed on to the worker's own log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines kept for error reports: a Python traceback with its context.
const KEPT: usize = 200;
/// Longer lines are cut: progress bars and dumped tensors.
const LONGEST: usize = 4 * 1024;
/// Lines a second passed on to the worker's log.
const RATE: u32 = 50;

/// The newest lines.
#[derive(Debug, Clone, Default)]
pub struct LogRing(Arc<Mutex<VecDeque<String>>>);

impl LogRing {
    pub fn tail(&self) -> VecDeque<String> {
        self.0.lock().clone()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Reads a stream to its end.
pub async fn collect(mut stream: impl AsyncRead + Unpin, name: &'static str, ring: LogRing) {
    let mut forward = Forward::new(name);
    let mut line = Vec::new();
    let mut chunk = [0; 8 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        for byte in &chunk[..read] {
            match byte {
                b'\n' | b'\r' => flush(&mut line, &ring, &mut forward),
                _ if line.len() < LONGEST => line.push(*byte),
                _ => {}
            }
        }
    }
    flush(&mut line, &ring, &mut forward);
}

fn flush(line: &mut Vec<u8>, ring: &LogRing, forward: &mut Forward) {
    if line.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(line).into_owned();
    line.clear();
    forward.line(&text);
    ring.push(text);
}

/// Passes lines on, and counts those above the rate instead.
struct Forward {
    stream: &'static str,
    second: Instant,
    passed: u32,
    dropped: u64,
}

impl Forward {
    fn new(stream: &'static str) -> Self {
        Self {
            stream,
            second: Instant::now(),
            passed: 0,
            dropped: 0,
        }
    }

    fn line(&mut self, text: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.dropped > 0 {
                tracing::debug!(
                    stream = self.stream,
                    dropped = self.dropped,
                    "engine log lines dropped"
                );
            }
            (self.second, self.passed, self.dropped) = (Instant::now(), 0, 0);
        }
        if self.passed < RATE {
            self.passed += 1;
            // What it has to say to people: stdout is often a library's progress.
            match self.stream {
                "stderr" => tracing::info!(line = text, "engine"),
                _ => tracing::debug!(stream = self.stream, line = text, "engine"),
            }
        } else {
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_lines_are_kept_and_long_ones_cut() {
        let mut text: Vec<u8> = (0..300)
            .flat_map(|i| format!("line {i}\n").into_bytes())
            .collect();
        text.extend(vec![b'x'; 10_000]);
        let ring = LogRing::default();
        collect(&text[..], "stdout", ring.clone()).await;
        let tail = ring.tail();
        assert_eq!(tail.len(), KEPT);
        assert_eq!(tail[0], "line 101");
        assert_eq!(tail[KEPT - 1].len(), LONGEST);
    }
}
