//! A tap between a worker and its engine: passes every line on and notes when it came. The engine's own words are the
//! only ones that say when it worked and when it waited.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::tap::now_us;

/// One message that passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// Microseconds since 1970.
    pub at: i64,
    /// Its type: `render`, `accepted`, `step`, `checkpoint`, `finished`.
    pub what: String,
    /// Of the render, where it is of one.
    pub id: String,
}

/// Stands where the engine would: the worker's socket is our standard input. Ends with the engine.
pub fn run(log: &Path, engine: &[String]) -> io::Result<ExitCode> {
    let (program, arguments) = engine.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let worker = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let log = Arc::new(Mutex::new(File::create(log)?));
    let orders = Line {
        from: worker.try_clone()?,
        into: ours.try_clone()?,
        log: Arc::clone(&log),
    };
    let answers = Line {
        from: ours,
        into: worker,
        log,
    };
    // It ends with the worker's last word, or with this process.
    thread::spawn(move || orders.pass_on());
    answers.pass_on()?;
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// What passed by now, in order.
pub fn read(log: &Path) -> Vec<Passed> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

struct Line {
    from: UnixStream,
    into: UnixStream,
    log: Arc<Mutex<File>>,
}

impl Line {
    fn pass_on(mut self) -> io::Result<()> {
        let mut from = BufReader::new(&self.from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 {
            let at = now_us();
            self.into.write_all(&line)?;
            self.note(at, &line)?;
            line.clear();
        }
        self.into.shutdown(Shutdown::Write)
    }

    fn note(&self, at: i64, line: &[u8]) -> io::Result<()> {
        #[derive(Deserialize)]
        struct Head {
            r#type: String,
            #[serde(default)]
            id: Option<String>,
        }
        let Ok(head) = serde_json::from_slice::<Head>(line) else {
            return Ok(());
        };
        let passed = Passed {
            at,
            what: head.r#type,
            id: head.id.unwrap_or_default(),
        };
        let mut text = serde_json::to_vec(&passed)?;
        text.push(b'\n');
        let mut log = self.log.lock();
        log.write_all(&text)
    }
}
