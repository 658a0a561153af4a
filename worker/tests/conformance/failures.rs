//! What goes wrong, and what is left of it: nothing.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use spotreel_worker::engine::protocol::{ErrorKind, FEATURE_FAULTS, PROTO, ToEngine, encode};
use spotreel_worker::engine::{Deadlines, Engine, EngineConfig, EngineError};
use spotreel_worker::gate::{self, GateError};
use tokio::process::Command;

use super::stage::{
    Bench, MODEL, checkpoints, command, config, expectation, request, sha256, until,
};

#[tokio::test]
async fn errors_that_are_reported_leave_the_engine_usable() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    for (prompt, kind) in [
        ("{{oom@2}}", ErrorKind::Oom),
        ("{{retryable@0}}", ErrorKind::Retryable),
        ("{{invalid@6}}", ErrorKind::Invalid),
    ] {
        let failure = bench.failure(prompt).await;
        assert_eq!(failure.kind, kind);
        assert!(failure.engine_alive);
    }
    let request = bench.request("a meadow");
    bench.video(request).await;
}

#[tokio::test]
async fn a_crash_is_retryable_and_names_the_signal() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{crash@3}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "engine_exited")
    );
    assert!(failure.message.contains("SIGABRT"), "{failure}");
    assert!(
        failure
            .log_tail
            .iter()
            .any(|line| line.contains("fault Crash"))
    );
    let request = bench.request("a meadow");
    assert!(bench.engine.render(request, None).is_err());
}

#[tokio::test]
async fn a_broken_accelerator_is_told_apart() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{device@1}}").await;
    assert_eq!(failure.kind, ErrorKind::Device);
    assert!(!failure.engine_alive);
    assert_eq!(bench.engine.exited().await.code(), Some(86));
}

#[tokio::test]
async fn garbage_on_the_channel_ends_the_engine() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let failure = bench.failure("{{garbage@1}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "protocol")
    );
    assert!(!failure.engine_alive);
}

#[tokio::test]
async fn a_hang_ends_at_the_deadline() {
    let mut config = config();
    config.deadlines = Deadlines {
        step_floor: Duration::from_millis(300),
        first_step: Duration::from_secs(2),
        ..Deadlines::default()
    };
    let mut bench = Bench::with(config).await;
    if !bench
        .engine
        .hello()
        .features
        .iter()
        .any(|f| f == FEATURE_FAULTS)
    {
        return;
    }
    let failure = bench.failure("{{hang@3}}").await;
    assert_eq!(
        (failure.kind, &*failure.code),
        (ErrorKind::Retryable, "deadline")
    );
    assert!(!failure.engine_alive);
    assert!(failure.log_tail.iter().any(|line| line.contains("SIGUSR1")));
}

#[tokio::test]
async fn noise_on_stdout_and_stderr_changes_nothing() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let request = bench.request("{{noise@2}}");
    bench.video(request).await;
    assert_eq!(bench.engine.log_tail().len(), 200);
}

#[tokio::test]
async fn a_checkpoint_with_a_wrong_hash_can_be_told() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    let request = bench.request("{{bad_ckpt@1}}");
    let bad = checkpoints(&bench.all(request).await);
    let wrong = bad.iter().filter(|info| sha256(&info.path) != info.sha256);
    assert_eq!(wrong.count(), 1);
}

#[tokio::test]
async fn the_gate_refuses_black_frozen_and_truncated_videos() {
    let Some(mut bench) = Bench::faulty().await else {
        return;
    };
    for prompt in ["{{black@0}}", "{{frozen@0}}", "{{truncated@0}}"] {
        let mut request = bench.request(prompt);
        // More than one keyframe interval: a still picture has other pixels after each keyframe.
        request.task.frames = 41;
        let expected = expectation(&request.task);
        let info = bench.video(request).await;
        let verdict = gate::check(&info.video, &expected);
        let right = match prompt {
            "{{black@0}}" => matches!(verdict, Err(GateError::Black)),
            "{{frozen@0}}" => matches!(verdict, Err(GateError::Frozen)),
            _ => matches!(verdict, Err(GateError::Mp4(_))),
        };
        assert!(right, "{prompt}: {verdict:?}");
    }
}

#[tokio::test]
async fn the_gate_survives_any_damage() {
    let mut bench = Bench::new().await;
    let request = bench.request("a wreck");
    let expected = expectation(&request.task);
    let video = std::fs::read(bench.video(request).await.video).unwrap();
    gate::check_bytes(&video, &expected).unwrap();
    for length in (0..video.len()).step_by(7) {
        assert!(gate::check_bytes(&video[..length], &expected).is_err());
    }
    // Damage in the pictures may go unnoticed; it only must not bring the gate down.
    for at in (0..video.len()).step_by(11) {
        for bits in [0x01, 0x80, 0xff] {
            let mut damaged = video.clone();
            damaged[at] ^= bits;
            let _verdict = gate::check_bytes(&damaged, &expected);
        }
    }
}

#[tokio::test]
async fn nothing_secret_reaches_the_engine() {
    let mut config = EngineConfig::new("/bin/sh");
    config.args = vec!["-c".into(), "env >&2; exit 3".into()];
    let Err(EngineError::Failed(failure)) = Engine::spawn(config).await else {
        panic!("a shell is no engine");
    };
    assert!(failure.message.contains("status 3"), "{failure}");
    let inherited = |line: &String| {
        let name = line.split('=').next().unwrap_or_default().to_owned();
        let known = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR"];
        let shell = ["PWD", "SHLVL", "_", "OLDPWD"];
        let set = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"];
        let named = [&known[..], &shell, &set].concat().contains(&&*name);
        named || name.starts_with("CUDA_") || name.starts_with("NVIDIA_")
    };
    let strangers: Vec<_> = failure
        .log_tail
        .iter()
        .filter(|line| !inherited(line))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

/// A worker that was killed reads nothing more: neither what is said to it nor the log.
#[tokio::test]
async fn it_ends_with_its_worker_in_the_middle_of_a_render() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), "a pier {{slow@0}}");
    let work_dir = request.work_dir.clone();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let command = command();
    let mut engine = Command::new(&command[0])
        .args(&command[1..])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let say = |message: &ToEngine| (&ours).write_all(&encode(message).unwrap()).unwrap();
    say(&ToEngine::Hello { proto: PROTO });
    say(&ToEngine::Load {
        model: MODEL.into(),
        profile: None,
        pack_dir: None,
        verified: false,
        arriving: Vec::new(),
    });
    say(&ToEngine::Render(Box::new(request)));
    // Nothing of its words is read, so that they are lost with the channel.
    until("it is in the middle", || {
        std::fs::read_dir(&work_dir).unwrap().count() > 0
    });
    drop((engine.stdout.take(), engine.stderr.take(), ours));
    until("it has ended", || engine.try_wait().unwrap().is_some());
    assert_eq!(
        engine.wait().await.unwrap().code(),
        Some(0),
        "of itself, not by a panic"
    );
}
