//! The health check of the NATS container, over a server and a disk that say what the test wants.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use spotreel_test_kit::{root, until};
use tempfile::TempDir;

const BUSY: &str = "wget: can't connect to remote host: Connection refused";
const STARTING: &str = "wget: server returned error: HTTP/1.1 500 Internal Server Error";
const UNWELL: &str = "wget: server returned error: HTTP/1.1 503 Service Unavailable";
/// More and less than the server is started again with, in KiB.
const ROOM: &str = "20000";
const NO_ROOM: &str = "1000";

/// What the script asks, and the answers: from the variables of its environment.
const PROGRAMS: [(&str, &str); 3] = [
    ("wget", r#"[ -z "$SAYS" ] || { echo "$SAYS" >&2; exit 1; }"#),
    (
        "df",
        r#"printf 'Filesystem Blocks Used Available\ndisk 1 1 %s\n' "$FREE""#,
    ),
    ("pidof", r#"echo "$SERVER""#),
];

struct Container {
    dir: TempDir,
    server: Child,
}

impl Container {
    fn start() -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        for (name, script) in PROGRAMS {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
            let rights = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, rights).expect("it is ours");
        }
        let server = Command::new("sleep").arg("600").spawn();
        Self {
            dir,
            server: server.expect("sleep is there"),
        }
    }

    /// Whether the check finds it well.
    fn is_well(&self, says: &str, free: &str) -> bool {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .arg(root().join("deploy/nats/health.sh"))
            .arg(self.path())
            .env("PATH", format!("{}:{path}", self.path().display()))
            .env("TMPDIR", self.path())
            .env("SAYS", says)
            .env("FREE", free)
            .env("SERVER", self.server.id().to_string())
            .output();
        output.expect("sh is there").status.success()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.server.try_wait().expect("it is our child");
        ended.is_some()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn a_server_whose_disk_was_full_is_ended_once_there_is_room_and_no_other_is() {
    let mut container = Container::start();
    for says in [STARTING, BUSY] {
        assert!(!container.is_well(says, ROOM));
        assert!(!container.is_well(says, ROOM));
    }
    assert!(!container.is_well(UNWELL, ROOM));
    assert!(!container.is_well(UNWELL, ROOM));
    assert!(
        !container.has_ended(),
        "it starts, is busy, or cannot read a stream"
    );
    assert!(container.is_well("", ROOM));
    assert!(!container.is_well(UNWELL, NO_ROOM));
    assert!(!container.is_well(UNWELL, ROOM));
    assert!(!container.has_ended(), "it may be so for a moment");
    assert!(container.is_well("", ROOM));
    assert!(!container.is_well(UNWELL, ROOM));
    assert!(!container.has_ended());
    assert!(!container.is_well(UNWELL, ROOM));
    until("the server is ended", async || container.has_ended()).await;
}

#[tokio::test]
async fn a_server_whose_first_write_found_the_disk_full_is_ended_too() {
    let mut container = Container::start();
    assert!(!container.is_well(UNWELL, NO_ROOM));
    assert!(!container.is_well(UNWELL, ROOM));
    assert!(!container.is_well(UNWELL, ROOM));
    until("the server is ended", async || container.has_ended()).await;
}
