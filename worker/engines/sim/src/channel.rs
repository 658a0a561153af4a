//! Both directions of the channel.

use std::io::{Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use spotreel_engine_protocol::{FromEngine, LineBuffer, LineError, encode};

use crate::log::log;

/// Where messages to the worker go, one line at a time, from any thread.
#[derive(Clone)]
pub struct Outbox(Arc<Mutex<Sink>>);

struct Sink {
    write: Box<dyn Write + Send>,
    muted: bool,
}

impl Outbox {
    pub fn new(write: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Mutex::new(Sink {
            write,
            muted: false,
        })))
    }

    /// Says it. A failed write is no error here: the reader sees the end of the channel and ends the process.
    pub fn send(&self, message: &FromEngine) {
        match encode(message) {
            Ok(line) => self.send_bytes(&line),
            Err(error) => log(format_args!("a message cannot be said: {error}")),
        }
    }

    pub fn send_bytes(&self, bytes: &[u8]) {
        let mut sink = self.0.lock();
        if sink.muted {
            return;
        }
        let written = sink
            .write
            .write_all(bytes)
            .and_then(|()| sink.write.flush());
        if let Err(error) = written {
            log(format_args!("the channel does not take a line: {error}"));
        }
    }

    /// From now on nothing is said: what an engine that hangs looks like.
    pub fn mute(&self) {
        self.0.lock().muted = true;
    }
}

/// The lines from the worker.
pub struct Inbox {
    read: Box<dyn Read + Send>,
    buffer: LineBuffer,
}

impl Inbox {
    pub fn new(read: Box<dyn Read + Send>) -> Self {
        Self {
            read,
            buffer: LineBuffer::default(),
        }
    }

    /// The next line; `None` when the worker is gone.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(line) = self.buffer.next_line()? {
                return Ok(Some(line));
            }
            match self.read.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.buffer.push(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log(format_args!("the channel cannot be read: {error}"));
                    return Ok(None);
                }
            }
        }
    }
}
