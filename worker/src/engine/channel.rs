//! The socket's two directions as tasks, so that no half-read line or half-sent message depends on who is waiting.

use std::process::ExitStatus;

use spotreel_engine_protocol::{FromEngine, LineBuffer, LineError, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What reaches the owner of an engine, in order; `Exited` is the last.
#[derive(Debug)]
pub enum EngineHeard {
    /// With the time of arrival: deadlines must not depend on when somebody looks.
    Message(Instant, FromEngine),
    /// The bytes are no message; nothing more is read.
    Broken(LineError),
    Exited(ExitStatus),
}

/// Reads until the engine closes its end or breaks the contract.
pub async fn listen(mut socket: OwnedReadHalf, heard: mpsc::Sender<EngineHeard>) {
    let mut buffer = LineBuffer::default();
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = socket.read(&mut chunk).await {
        buffer.push(&chunk[..read]);
        loop {
            let message = match buffer.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => decode(&line),
                Err(error) => Err(error),
            };
            let (item, last) = match message {
                Ok(message) => (EngineHeard::Message(Instant::now(), message), false),
                Err(error) => (EngineHeard::Broken(error), true),
            };
            if heard.send(item).await.is_err() || last {
                return;
            }
        }
    }
}

/// Writes lines as they come. A failed write is no news: the exit that caused it is on its way.
pub async fn talk(mut socket: OwnedWriteHalf, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        if socket.write_all(&line).await.is_err() {
            return;
        }
    }
}
