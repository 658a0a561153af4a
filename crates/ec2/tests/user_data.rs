//! The script of a machine, run for real: in a shell, with stand-ins for what only a machine on EC2 has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use spotreel_domain::Model;
use spotreel_ec2::UserData;

const SECRET: &str = "hush-hush-42";
const COMMANDS: [&str; 11] = [
    "shutdown",
    "systemctl",
    "systemd-run",
    "docker",
    "aws",
    "mount",
    "mkfs.ext4",
    "lsblk",
    "chown",
    "nvidia-smi",
    "sleep",
];
/// Notes each call, and fails or answers as the real one would.
const STAND_IN: &str = r#"#!/bin/bash
name=${0##*/}
echo "$name $*" >>"$CALLS"
[ -n "$FAILING" ] && [[ "$name $*" == "$FAILING"* ]] && exit 1
# Whether this is one of the first so many calls of this command that fail.
fails_yet() { [ "$(grep -c "^$name $1" "$CALLS")" -le "${2:-0}" ]; }
case "$name $*" in
  "aws ssm get-parameters-by-path"*)
    printf '/spotreel/test/worker/nats.url\ttls://nats.example:4222\n'
    [ -n "$NO_PASSWORD" ] || printf '/spotreel/test/worker/nats.password\thush-hush-42\n'
    printf '%b' "$PARAMETERS_TOO" ;;
  "aws ecr get-login-password"*) echo a-login ;;
  "aws s3api list-objects-v2"*)
    if [ -n "$WRONG" ]; then
      echo "An error occurred ($WRONG) when calling the ListObjectsV2 operation: no" >&2
      exit 254
    fi ;;
  "aws s3api head-bucket"*) echo "${LIES_IN:-None}" ;;
  "docker login"*) cat >/dev/null ;;
  "docker pull"*worker@*)
    if fails_yet "pull .*worker@" "$THROTTLED"; then
      echo "toomanyrequests: Rate exceeded" >&2
      exit 1
    fi
    if [ -n "$GONE" ]; then
      echo "Error response from daemon: manifest unknown: Requested image not found" >&2
      exit 1
    fi ;;
  "lsblk --nodeps"*LABEL*) echo "$LABEL" ;;
  "lsblk --nodeps"*)
    printf '/dev/nvme0n1 Amazon Elastic Block Store\n/dev/nvme1n1 Amazon EC2 NVMe Instance Storage\n' ;;
  "lsblk"*MOUNTPOINT*)
    echo '/dev/nvme1n1 Amazon EC2 NVMe Instance Storage'
    [ -z "$MOUNTED" ] || echo '/dev/mapper/vg.01-lv_ephemeral  /opt/dlami/nvme' ;;
  "mkfs.ext4"*)
    if [ -n "$MOUNTED" ]; then
      echo '/dev/nvme1n1 is apparently in use by the system; will not make a filesystem here!' >&2
      exit 1
    fi ;;
  "nvidia-smi"*)
    if fails_yet "" "$DRIVER_FAILS"; then
      echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." >&2
      exit 9
    fi ;;
esac
exit 0
"#;

const PULL_WORKER: &str = "docker pull --quiet 1.dkr.ecr.us-east-2.amazonaws.com/worker@";
const PULL_READER: &str = "docker pull --quiet 1.dkr.ecr.us-east-2.amazonaws.com/spotreel@";
const READ: &str = "docker run --detach --name spotreel-models";
const END_READING: &str = "docker rm --force spotreel-models";

fn data() -> UserData {
    UserData {
        max_life: Duration::from_secs(4 * 3600),
        idle: Some(Duration::from_secs(300)),
        parameters: "/spotreel/test/worker".into(),
        image: format!(
            "1.dkr.ecr.us-east-2.amazonaws.com/worker@sha256:{}",
            "ab".repeat(32)
        ),
        models: vec![Model::Ti2v5b],
        bucket: Some("renders".into()),
        models_bucket: Some("wan-packs".into()),
        models_image: Some(format!(
            "1.dkr.ecr.us-east-2.amazonaws.com/spotreel@sha256:{}",
            "cd".repeat(32)
        )),
        gpus: true,
    }
}

struct Machine {
    root: PathBuf,
    metadata: String,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("spotreel-{name}-{}", std::process::id()));
        let bin = root.join("bin");
        fs::create_dir_all(&bin).unwrap();
        for command in COMMANDS {
            let path = bin.join(command);
            fs::write(&path, STAND_IN).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let metadata = format!("http://{}", listener.local_addr().unwrap());
        // It ends with the test's process.
        thread::spawn(move || listener.incoming().flatten().for_each(answer));
        Self { root, metadata }
    }

    fn boot(&self, variables: &[(&str, &str)]) -> Output {
        self.boot_with(&data(), variables)
    }

    fn boot_with(&self, data: &UserData, variables: &[(&str, &str)]) -> Output {
        let script = self.root.join("user-data.sh");
        fs::write(&script, data.render().unwrap()).unwrap();
        self.run(&script, variables)
    }

    /// What lay in memory is gone, and systemd starts what is enabled.
    fn reboot(&self, variables: &[(&str, &str)]) -> Output {
        fs::remove_dir_all(self.root.join("run")).unwrap();
        fs::remove_file(self.root.join("calls")).unwrap();
        let unit = self.unit("spotreel-boot");
        assert!(unit.contains("WantedBy=multi-user.target"), "{unit}");
        let start = unit.lines().find_map(|l| l.strip_prefix("ExecStart="));
        let script = start.unwrap().strip_prefix("/bin/bash ").unwrap();
        self.run(Path::new(script), variables)
    }

    fn run(&self, script: &Path, variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.root.join("bin").display());
        Command::new("bash")
            .arg(script)
            .env_clear()
            .env("PATH", path)
            .env("CALLS", self.root.join("calls"))
            .env("SPOTREEL_ROOT", &self.root)
            .env("SPOTREEL_CONSOLE", self.root.join("console"))
            .env("SPOTREEL_METADATA", &self.metadata)
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.root.join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }

    fn unit(&self, name: &str) -> String {
        let units = self.root.join("etc/systemd/system");
        fs::read_to_string(units.join(format!("{name}.service"))).unwrap()
    }

    fn variables(&self) -> String {
        fs::read_to_string(self.root.join("run/spotreel/worker.env")).unwrap()
    }

    /// Every file that the machine has now, but for the stand-ins.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                match entry.path() {
                    path if path.ends_with("bin") => {}
                    path if path.is_dir() => walk(&path, found),
                    path => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root, &mut found);
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// IMDSv2: a token for a PUT, and nothing without it.
fn answer(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_ascii_lowercase())
        .collect();
    let has_token = headers.contains(&"x-aws-ec2-metadata-token: a-token".to_owned());
    let body = match request.split(' ').nth(1).unwrap_or_default() {
        "/latest/api/token" if request.starts_with("PUT") => Some("a-token"),
        "/latest/meta-data/placement/region" if has_token => Some("us-east-2"),
        "/latest/meta-data/instance-id" if has_token => Some("i-0123"),
        "/latest/meta-data/tags/instance/spotreel:pool" if has_token => Some("gpu"),
        _ => None,
    };
    let status = if body.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = body.unwrap_or_default();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn place(calls: &[String], call: &str) -> usize {
    let found = calls.iter().position(|c| c.starts_with(call));
    found.unwrap_or_else(|| panic!("{call} was not called: {calls:#?}"))
}

#[test]
fn the_timers_come_first_and_the_worker_last() {
    let machine = Machine::new("order");
    let output = machine.boot(&[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {output:?}");
    let calls = machine.calls();
    assert_eq!(calls[0], "shutdown -P +240");
    assert!(calls[1].starts_with("systemd-run --unit=spotreel-max-life --on-active=240min"));
    let start = place(&calls, "systemctl start spotreel-worker");
    for before in [PULL_WORKER, "aws ssm", "systemctl daemon-reload"] {
        assert!(place(&calls, before) < start, "{before}");
    }
    assert!(
        !calls
            .iter()
            .any(|call| call.contains("poweroff") && !call.starts_with("systemd-run"))
    );
    let unit = machine
        .root
        .join("etc/systemd/system/spotreel-worker.service");
    let unit = fs::read_to_string(unit).unwrap();
    for line in [
        "Restart=on-failure",
        "StartLimitBurst=4",
        "StartLimitAction=poweroff",
        "RestartPreventExitStatus=2 4",
    ] {
        assert!(unit.contains(line), "{line}");
    }
    assert!(
        unit.contains(r#"case "$$EXIT_STATUS" in 0|2|4) systemctl poweroff"#),
        "{unit}"
    );
    for log in ["var/log/spotreel-user-data.log", "console"] {
        let log = fs::read_to_string(machine.root.join(log)).unwrap();
        assert!(log.contains("i-0123 of pool gpu in us-east-2"), "{log}");
    }
}

#[test]
fn a_step_that_fails_ends_the_machine() {
    for (name, variables) in [
        ("image", ("FAILING", PULL_WORKER)),
        ("parameters", ("FAILING", "aws ssm")),
        ("disk", ("FAILING", "mkfs.ext4 -q")),
        ("unit", ("FAILING", "systemctl daemon-reload")),
        ("boot", ("FAILING", "systemctl enable")),
        ("driver", ("FAILING", "nvidia-smi")),
        ("storage", ("FAILING", "aws s3api list-objects-v2")),
        ("password", ("NO_PASSWORD", "1")),
    ] {
        let machine = Machine::new(name);
        let output = machine.boot(&[variables]);
        assert!(!output.status.success(), "{name}");
        let calls = machine.calls();
        assert_eq!(calls[0], "shutdown -P +240", "{name}");
        assert!(
            calls.contains(&"systemctl poweroff".to_owned()),
            "{name}: {calls:#?}"
        );
        let started = calls.iter().any(|call| call.starts_with("systemctl start"));
        assert!(!started, "{name}");
    }
}

#[test]
fn models_are_read_ahead_until_the_worker_starts() {
    let machine = Machine::new("models");
    assert!(machine.boot(&[]).status.success());
    let calls = machine.calls();
    let order = [
        "mount -o noatime /dev/nvme1n1",
        "chown 10001:10001",
        PULL_READER,
        READ,
        PULL_WORKER,
        END_READING,
        "systemctl start spotreel-worker",
    ];
    let places: Vec<_> = order.iter().map(|call| place(&calls, call)).collect();
    assert!(places.is_sorted(), "{calls:#?}");
    let read = &calls[place(&calls, READ)];
    assert!(
        read.ends_with("spotreel models pull ti2v-5B --bucket wan-packs --packs /models"),
        "{read}"
    );
    assert!(read.contains("--env AWS_REGION=us-east-2"), "{read}");
    let variables = fs::read_to_string(machine.root.join("run/spotreel/worker.env")).unwrap();
    for line in [
        r#"SPOTREEL_WORKER_MODELS=["ti2v-5B"]"#,
        "SPOTREEL_WORKER_PACKS__BUCKET=wan-packs",
        "SPOTREEL_WORKER_PACKS__DIR=/models",
    ] {
        assert!(variables.lines().any(|found| found == line), "{variables}");
    }
    // Both write to the same directory, so that the worker goes on where the reader stopped.
    let volume = format!(
        "{}:/models ",
        machine.root.join("var/lib/spotreel/models").display()
    );
    let unit = machine
        .root
        .join("etc/systemd/system/spotreel-worker.service");
    assert!(fs::read_to_string(unit).unwrap().contains(&volume));
    assert!(read.contains(&volume), "{read}");
}

#[test]
fn without_a_bucket_the_image_brings_its_models() {
    let machine = Machine::new("bucket");
    let data = UserData {
        models_bucket: None,
        models_image: None,
        ..data()
    };
    assert!(machine.boot_with(&data, &[]).status.success());
    let calls = machine.calls();
    for call in ["mkfs", "chown", "docker run", "docker rm", PULL_READER] {
        assert!(!calls.iter().any(|c| c.starts_with(call)), "{call}");
    }
    let root = machine
        .root
        .join("etc/systemd/system/spotreel-worker.service");
    assert!(!fs::read_to_string(root).unwrap().contains("--volume"));
    let variables = fs::read_to_string(machine.root.join("run/spotreel/worker.env")).unwrap();
    assert!(!variables.contains("PACKS"), "{variables}");
}

#[test]
fn without_the_reader_the_worker_starts_all_the_same() {
    for failing in [PULL_READER, READ, END_READING, "docker logs"] {
        let machine = Machine::new("reader");
        let output = machine.boot(&[("FAILING", failing)]);
        assert!(output.status.success(), "{failing}: {output:?}");
        let calls = machine.calls();
        let start = place(&calls, "systemctl start spotreel-worker");
        assert!(place(&calls, PULL_WORKER) < start, "{failing}");
        assert!(
            !calls.contains(&"systemctl poweroff".to_owned()),
            "{failing}"
        );
    }
}

#[test]
fn no_metadata_end_the_machine_too() {
    let machine = Machine::new("metadata");
    let output = machine.boot(&[("SPOTREEL_METADATA", "file:///nowhere")]);
    assert!(!output.status.success());
    assert!(machine.calls().contains(&"systemctl poweroff".to_owned()));
}

#[test]
fn a_secret_is_in_one_file_that_only_root_can_read() {
    let machine = Machine::new("secret");
    let output = machine.boot(&[]);
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains(SECRET));
    let mut holders = machine.files();
    holders.retain(|path| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .contains(SECRET)
    });
    assert_eq!(holders, [machine.root.join("run/spotreel/worker.env")]);
    let mode = fs::metadata(&holders[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let variables = fs::read_to_string(&holders[0]).unwrap();
    assert!(variables.contains("SPOTREEL_WORKER_NATS__URL=tls://nats.example:4222"));
    assert!(variables.contains("SPOTREEL_WORKER_IDLE__EXIT_AFTER=300s"));
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let machine = Machine::new("lint");
    machine.boot(&[]);
    let script = machine.root.join("user-data.sh");
    let linted = Command::new("shellcheck").arg(&script).output();
    let output = match linted {
        Ok(output) => output,
        Err(_) => {
            eprintln!("shellcheck is not installed (make tools): only the syntax is checked");
            Command::new("bash")
                .arg("-n")
                .arg(&script)
                .output()
                .unwrap()
        }
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn count(calls: &[String], call: &str) -> usize {
    calls.iter().filter(|c| c.starts_with(call)).count()
}

#[test]
fn a_registry_that_says_429_is_asked_again_with_pauses_that_grow() {
    let machine = Machine::new("throttled");
    let output = machine.boot(&[("THROTTLED", "5")]);
    assert!(output.status.success(), "{output:?}");
    let calls = machine.calls();
    assert_eq!(count(&calls, PULL_WORKER), 6, "{calls:#?}");
    let pauses = calls.iter().filter_map(|c| c.strip_prefix("sleep "));
    let pauses: Vec<u32> = pauses.map(|pause| pause.parse().unwrap()).collect();
    // By up to five seconds longer, so that not all machines ask again at once.
    for (pause, least) in pauses.iter().zip([5, 10, 20, 40, 60]) {
        assert!((least..least + 5).contains(pause), "{pauses:?}");
    }
    assert_eq!(pauses.len(), 5);
    assert!(place(&calls, "systemctl start spotreel-worker") > 0);
}

#[test]
fn an_image_that_does_not_exist_is_asked_for_once() {
    let machine = Machine::new("gone");
    let output = machine.boot(&[("GONE", "1")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("manifest unknown"), "{said}");
    let calls = machine.calls();
    assert_eq!(count(&calls, PULL_WORKER), 1);
    assert!(calls.contains(&"systemctl poweroff".to_owned()));
}

#[test]
fn an_instance_store_that_the_image_has_mounted_is_used() {
    let machine = Machine::new("mounted");
    let output = machine.boot(&[("MOUNTED", "1")]);
    assert!(output.status.success(), "{output:?}");
    let calls = machine.calls();
    assert_eq!(count(&calls, "mkfs") + count(&calls, "mount "), 0);
    let models = machine.root.join("opt/dlami/nvme/spotreel-models");
    assert!(models.is_dir());
    let volume = format!("--volume {}:/models", models.display());
    let unit = machine.unit("spotreel-worker");
    assert!(unit.contains(&volume), "{unit}");
}

#[test]
fn the_driver_is_waited_for_but_not_for_ever() {
    let machine = Machine::new("driver-late");
    let output = machine.boot(&[("DRIVER_FAILS", "18")]);
    assert!(output.status.success(), "{output:?}");
    let calls = machine.calls();
    assert_eq!(count(&calls, "nvidia-smi"), 19);
    assert_eq!(count(&calls, "sleep 5"), 18, "a minute and a half");
    assert!(place(&calls, "nvidia-smi") < place(&calls, "systemctl start spotreel-worker"));

    let machine = Machine::new("driver-never");
    let output = machine.boot(&[("DRIVER_FAILS", "1000")]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("NVIDIA's driver has not answered"), "{said}");
    assert!(machine.calls().contains(&"systemctl poweroff".to_owned()));

    let machine = Machine::new("driver-none");
    let data = UserData {
        gpus: false,
        ..data()
    };
    assert!(machine.boot_with(&data, &[]).status.success());
    assert_eq!(count(&machine.calls(), "nvidia-smi"), 0);
}

#[test]
fn after_a_reboot_the_timers_and_the_worker_are_there_and_secrets_are_read_anew() {
    let machine = Machine::new("reboot");
    assert!(machine.boot(&[]).status.success());
    let enabled = "systemctl enable spotreel-boot.service".to_owned();
    assert!(machine.calls().contains(&enabled));
    let ends = machine.root.join("var/lib/spotreel/ends");
    let born_for: i64 = fs::read_to_string(&ends).unwrap().trim().parse().unwrap();

    fs::write(&ends, (born_for - 30).to_string()).unwrap();
    let output = machine.reboot(&[("LABEL", "spotreel")]);
    assert!(output.status.success(), "{output:?}");
    let calls = machine.calls();
    assert_eq!(calls[0], "shutdown -P +239");
    assert!(calls[1].starts_with("systemd-run --unit=spotreel-max-life --on-active=239min"));
    place(&calls, "systemctl start spotreel-worker");
    assert!(machine.variables().contains(SECRET));
    // The packs on the local disk are those of before.
    assert_eq!(count(&calls, "mkfs"), 0);
    place(&calls, "mount -o noatime /dev/nvme1n1");

    let an_hour_ago = (born_for - 4 * 3_600 - 3_600).to_string();
    fs::write(&ends, an_hour_ago).unwrap();
    machine.reboot(&[]);
    assert_eq!(machine.calls()[0], "shutdown -P +0", "its life is over");
}

#[test]
fn nothing_is_upgraded_under_a_render() {
    let machine = Machine::new("upgrades");
    assert!(
        machine
            .boot(&[("FAILING", "systemctl mask")])
            .status
            .success()
    );
    let calls = machine.calls();
    let masked = place(&calls, "systemctl mask");
    for unit in ["apt-daily-upgrade.timer", "unattended-upgrades.service"] {
        assert!(calls[masked].contains(unit), "{}", calls[masked]);
    }
    assert!(masked < place(&calls, PULL_READER));
}

#[test]
fn a_missing_parameter_is_named() {
    let machine = Machine::new("missing");
    let data = UserData {
        bucket: None,
        ..data()
    };
    let output = machine.boot_with(&data, &[("NO_PASSWORD", "1")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line =
        "missing under /spotreel/test/worker in the parameter store: nats.password s3.bucket";
    assert!(said.contains(line), "{said}");
    // The bucket may come from there.
    let machine = Machine::new("bucket-parameter");
    let bucket = (
        "PARAMETERS_TOO",
        r"/spotreel/test/worker/s3.bucket\tvideos\n",
    );
    assert!(machine.boot_with(&data, &[bucket]).status.success());
    let variables = machine.variables();
    assert!(variables.contains("SPOTREEL_WORKER_S3__BUCKET=videos\n"));
    assert!(variables.contains("SPOTREEL_WORKER_S3__REGION=us-east-2\n"));
}

#[test]
fn a_wrong_bucket_or_region_is_named_at_once() {
    for wrong in ["NoSuchBucket", "AccessDenied"] {
        let machine = Machine::new("wrong-bucket");
        let output = machine.boot(&[("WRONG", wrong)]);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("s3.bucket = renders with s3.region = us-east-2"));
        assert!(said.contains(wrong), "{said}");
        assert!(machine.calls().contains(&"systemctl poweroff".to_owned()));
    }
    let machine = Machine::new("wrong-region");
    let output = machine.boot(&[("LIES_IN", "eu-west-1")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "s3.region = us-east-2 is wrong: s3.bucket = renders lies in eu-west-1";
    assert!(said.contains(line), "{said}");
    // A store of one's own has no regions that could differ.
    let machine = Machine::new("own-store");
    let endpoint = (
        "PARAMETERS_TOO",
        r"/t/s3.endpoint_url\thttps://s3.example\n",
    );
    assert!(
        machine
            .boot(&[endpoint, ("LIES_IN", "eu-west-1")])
            .status
            .success()
    );
    let calls = machine.calls();
    let asked = &calls[place(&calls, "aws s3api list-objects-v2 --bucket renders")];
    assert!(asked.ends_with("--region us-east-2 --endpoint-url https://s3.example"));
}
