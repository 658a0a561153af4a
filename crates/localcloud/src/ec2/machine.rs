//! An instance's machine: the processes that its user-data script starts.
//!
//! The script runs in a session of its own, so that also children which left its process group (engines do) are found
//! when the machine goes. The script's end is the machine's end: whatever else runs in the session is killed.

mod session;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use session::Session;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;

const RECORD: &str = "machine.json";
pub(crate) const CONSOLE: &str = "console.log";
const SCRIPT: &str = "user-data";
/// Says in the environment whose process it is, as long as nobody clears it.
const DIR_VARIABLE: &str = "SPOTREEL_MACHINE_DIR";
/// Between two looks at what is still there; only while a machine goes.
const LOOK: Duration = Duration::from_millis(10);
/// SIGKILL takes effect in microseconds, but for a process that waits for a disk.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// What to start and where.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    pub id: String,
    /// Its own; made if it isn't there.
    pub dir: PathBuf,
    /// A script; without `#!` it is bash's. Empty: the machine idles until it is stopped.
    pub user_data: Vec<u8>,
    /// On top of our own environment.
    pub variables: Vec<(String, String)>,
}

/// How the script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// A machine that was started. Dropping it kills it.
#[derive(Debug)]
pub struct MachineProcess {
    session: Session,
    ended: watch::Receiver<Option<Ended>>,
    kill_at: watch::Sender<Option<Instant>>,
}

/// What a later process needs to know to end the machine.
#[derive(Debug, Serialize, Deserialize)]
struct MachineRecord {
    id: String,
    session: Session,
}

impl MachineProcess {
    /// Starts the script; it runs when this returns.
    ///
    /// # Errors
    /// The directory cannot be written, or there is no `setsid` (util-linux) or no `/proc`.
    pub fn start(spec: MachineSpec) -> io::Result<Self> {
        fs::create_dir_all(&spec.dir)?;
        let dir = spec.dir.canonicalize()?;
        let console = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join(CONSOLE))?;
        let mut child = command(&dir, &spec.user_data)?
            .current_dir(&dir)
            .envs(spec.variables)
            .env(DIR_VARIABLE, &dir)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .kill_on_drop(true)
            .spawn()?;
        let session = child
            .id()
            .ok_or_else(|| io::Error::other("the machine has no process id"))
            .and_then(Session::of)?;
        let record = MachineRecord {
            id: spec.id,
            session,
        };
        if let Err(error) = write(&dir.join(RECORD), &record) {
            let _ = child.start_kill(); // nobody could find it later; kill_on_drop does the rest
            return Err(error);
        }

        let (kill_at, orders) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = see_to_the_end(child, &record, orders).await;
            let _ = fs::remove_file(dir.join(RECORD)); // a stale one is recognised by its start time
            let _ = end.send(Some(how)); // nobody asks any more
        });
        Ok(Self {
            session,
            ended,
            kill_at,
        })
    }

    /// Of the script's process, which is also the id of its group and session.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.session.pid()
    }

    /// Returns when the script has ended and nothing of the machine runs any more.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.unwrap_or(UNKNOWN),
            Err(_) => UNKNOWN, // the runtime ends and takes its tasks with it
        }
    }

    /// SIGTERM to the script's group, and SIGKILL to all that is left after the grace.
    pub async fn stop(&self, grace: Duration) -> Ended {
        if !self.is_over() {
            let at = Instant::now() + grace;
            self.kill_at.send_modify(|known| {
                known.replace(known.map_or(at, |known| known.min(at)));
            });
            self.session.terminate();
        }
        self.ended().await
    }

    /// SIGKILL to all, now.
    pub async fn kill(&self) -> Ended {
        self.kill_at.send_replace(Some(Instant::now()));
        self.ended().await
    }

    fn is_over(&self) -> bool {
        self.ended.borrow().is_some()
    }
}

impl Drop for MachineProcess {
    fn drop(&mut self) {
        if !self.is_over() {
            self.session.kill_and_wait(LAST_BREATH);
        }
    }
}

const UNKNOWN: Ended = Ended {
    code: None,
    signal: None,
};

/// Ends the machines whose local cloud was killed: the one in `dir`, and those in the directories in it. Says how many
/// still ran.
///
/// # Errors
/// The directory or a record in it cannot be read.
pub fn kill_leftovers(dir: &Path) -> io::Result<usize> {
    let mut dirs = vec![dir.to_owned()];
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                dirs.push(entry?.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    }
    let mut killed = 0;
    for dir in dirs {
        let path = dir.join(RECORD);
        let Ok(file) = File::open(&path) else {
            continue; // no machine was left here
        };
        let record: MachineRecord = serde_json::from_reader(file)?;
        let marked = format!("{DIR_VARIABLE}={}", dir.canonicalize()?.display());
        killed += usize::from(record.session.kill_leftover(&marked, LAST_BREATH));
        fs::remove_file(&path)?;
    }
    Ok(killed)
}

/// The script's interpreter, the leader of a new session. The script is never executed itself: while another thread
/// forks, a file just written may count as busy.
fn command(dir: &Path, user_data: &[u8]) -> io::Result<Command> {
    let mut command = Command::new("setsid");
    if user_data.is_empty() {
        command.args(["tail", "-f", "/dev/null"]);
        return Ok(command);
    }
    let script = dir.join(SCRIPT);
    fs::write(&script, user_data)?;
    match shebang(user_data) {
        Some((interpreter, argument)) => command.arg(interpreter).args(argument),
        None => command.arg("bash"),
    };
    command.arg(script);
    Ok(command)
}

/// As the kernel reads it: the interpreter, and all the rest of the line as one argument.
fn shebang(script: &[u8]) -> Option<(String, Option<String>)> {
    let line = script.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
    (!interpreter.is_empty()).then(|| (interpreter.to_owned(), argument.map(str::to_owned)))
}

/// Whole or not at all: a local cloud that is killed here must leave a record that can be read.
fn write(path: &Path, record: &MachineRecord) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(record)?)?;
    fs::rename(draft, path)
}

async fn see_to_the_end(
    mut child: Child,
    record: &MachineRecord,
    mut orders: watch::Receiver<Option<Instant>>,
) -> Ended {
    let mut kill_at = None;
    let mut ordered = true;
    let how = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = reached(kill_at) => {
                let _ = child.start_kill(); // it may not have its session yet
                record.session.kill();
                kill_at = None;
            }
            changed = orders.changed(), if ordered => match changed {
                Ok(()) => kill_at = *orders.borrow_and_update(),
                Err(_) => ordered = false, // dropped, which has killed all
            },
        }
    };
    // In a stop, what outlives the script has the rest of its grace; else a machine that is off runs nothing.
    let until = orders.borrow().unwrap_or_else(Instant::now);
    while Instant::now() < until && !record.session.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    let last = Instant::now() + LAST_BREATH;
    while !record.session.is_empty() {
        record.session.kill();
        if Instant::now() > last {
            tracing::error!(
                instance = record.id,
                "processes of an instance did not exit after SIGKILL"
            );
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    how.map_or(UNKNOWN, |status| Ended {
        code: status.code(),
        signal: status.signal(),
    })
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
