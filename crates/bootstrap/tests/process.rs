//! A whole program as its supervisor sees it: signals, exit codes, health, and the spans that leave it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

/// No step of these tests takes long; a test that waits for this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The example, running, with the lines of its log as they come.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

/// The example with a clean environment: the machine's own must not decide what a test sees.
fn command(settings: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let binary = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/program");
    let mut command = Command::new(binary);
    command.env_clear();
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

impl Program {
    fn start(settings: &[&str]) -> Self {
        let mut child = command(settings).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Waits for a line of the log.
    fn says(&self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect(words);
            if line.contains(words) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn code(mut self) -> i32 {
        self.child
            .wait()
            .unwrap()
            .code()
            .expect("it exits by itself")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails when it ended by itself, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_clean_stop_is_zero() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let program = Program::start(&[]);
        program.says("started");
        program.signal(signal);
        program.says(signal.as_str());
        assert_eq!(program.code(), 0);
    }
    assert_eq!(Program::start(&["behaviour=leave"]).code(), 0);
}

#[test]
fn a_failed_task_is_one_and_says_why() {
    let program = Program::start(&["behaviour=fail"]);
    assert!(program.says("a task failed").contains("the disk is full"));
    assert_eq!(program.code(), 1);

    let program = Program::start(&["behaviour=panic"]);
    program.says("a task failed");
    assert_eq!(program.code(), 1);
}

#[test]
fn an_unfit_machine_is_four_so_that_a_supervisor_does_not_try_again() {
    let program = Program::start(&["behaviour=unfit"]);
    assert!(
        program
            .says("a task failed")
            .contains("no GPU answers; give this machine up")
    );
    assert_eq!(program.code(), 4);
}

#[test]
fn a_taken_port_is_one_and_names_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("http.listen={}", taken.local_addr().unwrap());
    let output = output(command(&[&listen]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("http.listen")
    );
}

#[test]
fn a_refused_configuration_is_two_and_names_the_key() {
    for (setting, words) in [
        ("behavior=work", "unknown key `behavior`"),
        ("behaviour=dance", "`behaviour` from --set behaviour"),
        ("telemetry.log=spotreel=loud", "telemetry.log"),
        (
            "telemetry.otlp_endpoint=https://far.away",
            "only http:// is spoken",
        ),
        ("no-equals-sign", "write --set key=value"),
    ] {
        let output = output(command(&[setting]));
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(words), "{told}");
    }
    let mut unknown_flag = command(&[]);
    unknown_flag.arg("--frobnicate");
    assert_eq!(output(unknown_flag).status.code(), Some(2));
}

#[test]
fn tasks_that_do_not_finish_are_cut_off_with_three() {
    let program = Program::start(&["behaviour=stuck", "shutdown.grace=100ms"]);
    program.says("started");
    program.signal(Signal::SIGTERM);
    program.says("shutdown.grace is over");
    assert_eq!(program.code(), 3);

    let program = Program::start(&["behaviour=stuck", "shutdown.grace=1h"]);
    program.says("started");
    program.signal(Signal::SIGTERM);
    program.says("stopping");
    program.signal(Signal::SIGTERM);
    program.says("second signal");
    assert_eq!(program.code(), 3);
}

#[test]
fn check_config_prints_everything_but_secrets() {
    let mut check = command(&["password=sesame", "shutdown.grace=90s"]);
    check.arg("--check-config");
    let output = output(check);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(told.contains("password = \"***\""), "{told}");
    assert!(
        !told.contains("sesame") && !told.contains("hunter2"),
        "{told}"
    );
    assert!(told.contains("grace = \"1m 30s\""), "{told}");
    assert!(told.contains("listen = \"127.0.0.1:0\""), "{told}");
}

#[test]
fn health_and_metrics_answer_where_the_log_says() {
    let program = Program::start(&["telemetry.format=json"]);
    let line: serde_json::Value = serde_json::from_str(&program.says("listening")).unwrap();
    let address = line["http"].as_str().unwrap();
    program.says("started");

    assert!(get(address, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(address, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    let body = r#"{"ready":false,"checks":{"engine":{"ok":false,"reason":"loading"}}}"#;
    assert!(ready.ends_with(body), "{ready}");
    let metrics = get(address, "/metrics");
    assert!(metrics.contains("program_starts_total 1"), "{metrics}");
    assert!(
        metrics.contains("spotreel_build_info{program=\"program\""),
        "{metrics}"
    );
}

#[test]
fn check_health_asks_the_program_that_runs() {
    let probe = |listen: &str| {
        let mut probe = command(&[&format!("http.listen={listen}")]);
        probe.arg("--check-health");
        let output = output(probe);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let program = Program::start(&["telemetry.format=json"]);
    let line: serde_json::Value = serde_json::from_str(&program.says("listening")).unwrap();
    let address = line["http"].as_str().unwrap().to_owned();
    program.says("started");
    let (code, told) = probe(&address);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("not ready") && told.contains("loading"),
        "{told}"
    );

    drop(program);
    let (code, told) = probe(&address);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains(&format!("nothing answers at {address}")),
        "{told}"
    );

    let (code, told) = probe("127.0.0.1:0");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("http.listen"), "{told}");

    // The example is never ready, so somebody else answers for one that is.
    let ready = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ready.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = ready.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        line
    });
    assert_eq!(probe(&address), (Some(0), String::new()));
    assert!(served.join().unwrap().starts_with("GET /readyz "));
}

#[test]
fn spans_arrive_at_the_collector_before_the_exit() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!(
        "telemetry.otlp_endpoint=http://{}",
        collector.local_addr().unwrap()
    );
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = collector.accept() {
            sender.send(take_request(stream)).unwrap();
        }
    });
    let program = Program::start(&[&endpoint]);
    program.says("started");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.code(), 0);

    let (head, body) = requests.recv_timeout(PATIENCE).expect("spans arrive");
    assert!(head.starts_with("POST /v1/traces "), "{head}");
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    let told = format!("{request:?}");
    assert!(
        told.contains("spotreel-program") && told.contains("service.name"),
        "{told}"
    );
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    assert!(spans.iter().any(|span| span.name == "work"), "{told}");
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Reads one request with a `content-length` and answers 200.
fn take_request(stream: TcpStream) -> (String, Vec<u8>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(
            reader.read_line(&mut head).unwrap(),
            0,
            "cut off in the head: {head}"
        );
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .expect("the exporter gives a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    (head, body)
}
