//! The power fails under a store that is written to.
//!
//! The store lies on a filesystem of its own on a loop device. At some instant, while submissions go on, the filesystem is
//! shut down without a flush (`FS_IOC_SHUTDOWN`, as xfstests does it): what the device has got by then stays, what only the
//! page cache had is gone, and nothing more gets through. The device is mounted again, its journal replayed, and a new
//! server started on it. What a disk itself would lose of what it has taken without a flush is not played.
//!
//! It needs root, a loop device, mkfs.ext4 and Python: `make power-cut`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spotreel_bench::front::Front;
use spotreel_bench::server::{Server, Sync};
use spotreel_bus::TaskLog;
use spotreel_bus::names::INBOX_SUBJECT;
use spotreel_domain::TaskId;
use spotreel_tests::harness::{Api, eventually, tasks};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Of the device; the image is sparse.
const DEVICE: &str = "2G";
/// The power fails once so many tasks are acknowledged.
const ACKNOWLEDGED: usize = 3_000;
const CUTS: usize = 3;
const CLIENTS: usize = 8;
const LIST: usize = 50;
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a loop device and mkfs.ext4: make power-cut"]
async fn what_was_acknowledged_survives() {
    for _ in 0..CUTS {
        let cut = Cut::under(Sync::Always).await;
        println!("sync always: {cut:?}");
        assert_eq!(cut.missing, Vec::<String>::new());
        assert_eq!(cut.doubled, Vec::<String>::new());
    }
}

/// The counter-example: so the test above can fail.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, a loop device and mkfs.ext4: make power-cut"]
async fn by_the_servers_default_it_does_not() {
    let cut = Cut::under(Sync::Default).await;
    println!(
        "sync by default: {} of {} acknowledged tasks are gone",
        cut.missing.len(),
        cut.acknowledged
    );
    assert!(!cut.missing.is_empty(), "{cut:?}");
}

#[derive(Debug)]
struct Cut {
    acknowledged: usize,
    /// Acknowledged before the cut, and not there after it.
    missing: Vec<String>,
    doubled: Vec<String>,
}

impl Cut {
    async fn under(sync: Sync) -> Self {
        let disk = Disk::mounted();
        let server = Server::provisioned(sync, Some(&disk.at)).await;
        // Streams and consumers are not what is at stake.
        run("sync", &["-f", &shown(&disk.at)]);
        let mut front = Front::over(server).await;
        let ledger = Arc::<Ledger>::default();
        let mut clients = clients(&front.client, &ledger);
        let enough = || async { (ledger.len() >= ACKNOWLEDGED).then_some(()) };
        eventually("enough is acknowledged", SOON * 2, enough).await;

        let acknowledged = ledger.all();
        disk.cut();
        front.server.kill9();
        clients.shutdown().await;
        disk.mount_again();
        front.server.begin().await;

        let log = TaskLog::open(&front.services).await;
        let (mut missing, mut doubled) = (Vec::new(), Vec::new());
        for told in &acknowledged {
            let id = TaskId::parse(&told.id).expect("it was accepted");
            // What lies in INBOX comes once intake is connected again.
            let within = if told.by_inbox && sync == Sync::Always {
                SOON
            } else {
                Duration::ZERO
            };
            match stored(&log, &id, within).await {
                0 => missing.push(told.id.clone()),
                1 => {}
                _ => doubled.push(told.id.clone()),
            }
        }
        let by_inbox = acknowledged.iter().filter(|told| told.by_inbox).count();
        assert!(
            by_inbox > 0 && by_inbox < acknowledged.len(),
            "both doors were used"
        );
        Self {
            acknowledged: acknowledged.len(),
            missing,
            doubled,
        }
    }
}

/// How many events of the task the log holds.
async fn stored(log: &TaskLog, id: &TaskId, within: Duration) -> usize {
    let began = std::time::Instant::now();
    loop {
        let found = log.history(id).await.map_or(0, |events| events.len());
        if found > 0 || began.elapsed() >= within {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Debug)]
struct Told {
    id: String,
    by_inbox: bool,
}

/// What was acknowledged, in the order in which clients heard of it.
#[derive(Default)]
struct Ledger(Mutex<Vec<Told>>);

impl Ledger {
    fn add(&self, ids: impl IntoIterator<Item = String>, by_inbox: bool) {
        let mut all = self.0.lock();
        all.extend(ids.into_iter().map(|id| Told { id, by_inbox }));
    }

    fn all(&self) -> Vec<Told> {
        self.0.lock().clone()
    }

    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// They submit one by one, in lists and by inbox, as fast as they are answered, until they are shut down.
fn clients(client: &Client, ledger: &Arc<Ledger>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for number in 0..CLIENTS {
        let (api, ledger) = (Api::new(client.clone()), Arc::clone(ledger));
        all.spawn(async move {
            loop {
                match number % 4 {
                    0 => list(&api, &ledger).await,
                    1 => inbox(&api, &ledger).await,
                    _ => single(&api, &ledger).await,
                }
            }
        });
    }
    all
}

async fn single(api: &Api, ledger: &Ledger) {
    let (id, task) = task();
    if api.ask::<Value>("submit", &task).await.is_ok() {
        ledger.add([id], false);
    }
}

async fn list(api: &Api, ledger: &Ledger) {
    let (ids, tasks): (Vec<_>, Vec<_>) = (0..LIST).map(|_| task()).unzip();
    if let Ok(answer) = api.ask::<Value>("submit", &json!(tasks)).await
        && answer["refused"] == 0
    {
        ledger.add(ids, false);
    }
}

async fn inbox(api: &Api, ledger: &Ledger) {
    let (id, task) = task();
    let sent = api.client.request(INBOX_SUBJECT, task.to_string().into());
    let Ok(answer) = sent.await else { return };
    let answer: Value = serde_json::from_slice(&answer.payload).expect("a PubAck is JSON");
    if answer["seq"].is_u64() {
        ledger.add([id], true);
    }
}

fn task() -> (String, Value) {
    let id = tasks::name("power");
    let task = tasks::small(&id, 40);
    (id, task)
}

/// A filesystem on a loop device over a file.
struct Disk {
    at: PathBuf,
    device: String,
    _dir: TempDir,
}

impl Disk {
    fn mounted() -> Self {
        let dir = TempDir::with_prefix("spotreel-disk-").expect("a directory can be made");
        let (image, at) = (dir.path().join("disk.img"), dir.path().join("mounted"));
        std::fs::create_dir(&at).expect("a directory can be made");
        run("truncate", &["-s", DEVICE, &shown(&image)]);
        run("mkfs.ext4", &["-q", &shown(&image)]);
        let device = run("losetup", &["--find", "--show", &shown(&image)]);
        let disk = Self {
            at,
            device: device.trim().to_owned(),
            _dir: dir,
        };
        disk.mount_again();
        disk
    }

    /// From now on nothing reaches the device, and what has not reached it is lost.
    fn cut(&self) {
        // 2 is EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written out.
        let shut_down = "import fcntl, os, struct, sys\n\
                         fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run("python3", &["-c", shut_down, &shown(&self.at)]);
    }

    fn mount_again(&self) {
        self.unmount();
        run("mount", &[&self.device, &shown(&self.at)]);
    }

    fn unmount(&self) {
        // It may not be mounted.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}
