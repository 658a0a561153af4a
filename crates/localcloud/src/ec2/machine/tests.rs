use std::path::Path;

use super::*;

/// For what must happen and usually does so in milliseconds.
const LONG: Duration = Duration::from_secs(30);

fn start(dir: &Path, script: &str) -> MachineProcess {
    MachineProcess::start(MachineSpec {
        id: "i-1".to_owned(),
        dir: dir.to_owned(),
        user_data: script.as_bytes().to_vec(),
        variables: vec![("COLOUR".to_owned(), "green".to_owned())],
    })
    .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect(what);
}

fn console(dir: &Path) -> String {
    fs::read_to_string(dir.join(CONSOLE)).unwrap_or_default()
}

fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// A script that starts a child in its own process group and with an empty environment, as the worker starts its engine.
const WITH_AN_ENGINE: &str = r#"
trap 'echo asked to stop; sleep 0.1; echo stopped; exit 3' TERM
set -m
env -i sleep 1000 & echo $! > engine
set +m
sleep 1000 & echo $! > child
echo up
wait
wait
"#;

async fn with_an_engine(dir: &Path) -> (MachineProcess, [String; 2]) {
    let machine = start(dir, WITH_AN_ENGINE);
    until("it is up", || console(dir).contains("up")).await;
    let pids = ["engine", "child"].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    assert!(pids.iter().all(|pid| runs(pid)));
    (machine, pids)
}

#[tokio::test]
async fn a_script_runs_in_its_directory_and_its_end_is_the_machines() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(dir.path(), "echo $COLOUR $PWD; echo oops >&2; cat; exit 7");
    let how = machine.ended().await;
    assert_eq!((how.code, how.signal), (Some(7), None));
    assert_eq!(machine.ended().await, how, "and again");
    let here = dir.path().canonicalize().unwrap();
    assert_eq!(
        console(dir.path()),
        format!("green {}\noops\n", here.display())
    );
    assert!(!dir.path().join(RECORD).exists());
}

#[tokio::test]
async fn the_shebang_counts() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(dir.path(), "#!/bin/cat -n\nnot for a shell $((\n");
    assert_eq!(machine.ended().await.code, Some(0));
    assert!(console(dir.path()).contains("2\tnot for a shell $(("));
}

#[tokio::test]
async fn a_missing_interpreter_is_on_the_console() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(dir.path(), "#!/no/such/shell\n");
    assert_ne!(machine.ended().await.code, Some(0));
    assert!(console(dir.path()).contains("/no/such/shell"));
}

#[tokio::test]
async fn no_user_data_idles() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(dir.path(), "");
    let ended = tokio::time::timeout(Duration::from_millis(50), machine.ended());
    assert!(ended.await.is_err());
    let how = machine.stop(LONG).await;
    assert_eq!(how.signal, Some(15));
}

#[tokio::test]
async fn stop_asks_first() {
    let dir = tempfile::tempdir().unwrap();
    let (machine, pids) = with_an_engine(dir.path()).await;
    let how = machine.stop(Duration::from_secs(1)).await;
    assert_eq!(how.code, Some(3));
    assert!(console(dir.path()).contains("stopped"));
    assert!(!pids.iter().any(|pid| runs(pid)), "nothing is left");
    assert_eq!(machine.stop(LONG).await, how, "twice does no harm");
}

#[tokio::test]
async fn a_child_has_the_grace_that_its_script_did_not_take() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(
        dir.path(),
        "bash -c 'trap \"sleep 0.2; echo done; exit\" TERM; echo up; while :; do sleep 0.05; done'; exit",
    );
    until("it is up", || console(dir.path()).contains("up")).await;
    machine.stop(LONG).await; // bash itself dies of the signal at once
    assert!(console(dir.path()).contains("done"));
}

#[tokio::test]
async fn who_does_not_listen_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(
        dir.path(),
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
    );
    until("it is up", || console(dir.path()).contains("up")).await;
    let how = machine.stop(Duration::from_millis(100)).await;
    assert_eq!(how.signal, Some(9));
}

#[tokio::test]
async fn kill_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (machine, pids) = with_an_engine(dir.path()).await;
    assert_eq!(machine.kill().await.signal, Some(9));
    assert!(!pids.iter().any(|pid| runs(pid)));
    assert!(!runs(&machine.pid().to_string()));
}

#[tokio::test]
async fn the_scripts_end_takes_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let machine = start(dir.path(), "sleep 1000 & echo $! > child; exit 0");
    assert_eq!(machine.ended().await.code, Some(0));
    let child = fs::read_to_string(dir.path().join("child")).unwrap();
    assert!(!runs(&child));
}

#[tokio::test]
async fn dropping_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (machine, pids) = with_an_engine(dir.path()).await;
    let pid = machine.pid().to_string();
    drop(machine);
    assert!(!runs(&pid) && !pids.iter().any(|pid| runs(pid)));
}

#[tokio::test]
async fn leftovers_are_found_by_their_record() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("i-1");
    let (machine, pids) = with_an_engine(&dir).await;
    assert!(dir.join(RECORD).exists());
    assert_eq!(kill_leftovers(root.path()).unwrap(), 1);
    assert!(!pids.iter().any(|pid| runs(pid)));
    machine.ended().await;
    assert_eq!(kill_leftovers(root.path()).unwrap(), 0);
    assert_eq!(kill_leftovers(&root.path().join("nowhere")).unwrap(), 0);
}

#[tokio::test]
async fn a_process_that_took_over_the_id_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("i-1");
    let machine = start(&root.path().join("other"), "");
    fs::create_dir(&dir).unwrap();
    let record = fs::read_to_string(root.path().join("other").join(RECORD)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["session"]["started_ticks"] = 1.into();
    fs::write(dir.join(RECORD), record.to_string()).unwrap();
    assert_eq!(kill_leftovers(&dir).unwrap(), 0);
    assert!(runs(&machine.pid().to_string()));
    machine.kill().await;
}
