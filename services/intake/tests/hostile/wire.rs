//! A client that speaks the protocol by hand: what no library would send.

use std::time::Duration;

use serde_json::json;
use spotreel_test_kit::password;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::stage::{Stage, until};

/// Far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Wire {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Pong,
    Error(String),
    /// Headers and payload, as they came.
    Message(Vec<u8>),
    Closed,
}

impl Wire {
    pub async fn open(stage: &Stage, user: &str) -> Self {
        let address = stage.url.strip_prefix("nats://").unwrap();
        let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
        let mut wire = Self {
            from: BufReader::new(from),
            to,
        };
        let hello = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
            "lang": "hand", "version": "1", "user": user, "pass": password(user)});
        wire.say(format!("CONNECT {hello}\r\nSUB _INBOX.hand.* 1\r\n").as_bytes())
            .await;
        assert_eq!(wire.answers().await, []);
        wire
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        // The server may have hung up: what it said before that is what counts.
        let _ = self.to.write_all(bytes).await;
    }

    /// Publishes with headers that are sent as they are.
    pub async fn publish(&mut self, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) {
        let (head, all) = (headers.len(), headers.len() + payload.len());
        let line = match head {
            0 => format!("PUB {subject} {reply} {all}\r\n"),
            _ => format!("HPUB {subject} {reply} {head} {all}\r\n"),
        };
        self.say(&[line.as_bytes(), headers, payload, b"\r\n"].concat())
            .await;
    }

    /// Everything that the server says until it has read what was said so far.
    pub async fn answers(&mut self) -> Vec<Heard> {
        self.say(b"PING\r\n").await;
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Heard::Pong => return heard,
                Heard::Closed => {
                    heard.push(Heard::Closed);
                    return heard;
                }
                other => heard.push(other),
            }
        }
    }

    /// The next message.
    pub async fn message(&mut self) -> Vec<u8> {
        loop {
            match self.hear().await {
                Heard::Message(message) => return message,
                Heard::Closed => panic!("the server hung up"),
                Heard::Pong | Heard::Error(_) => {}
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        let heard = tokio::time::timeout(PATIENCE, self.next());
        heard.await.expect("the server says something")
    }

    async fn next(&mut self) -> Heard {
        loop {
            let mut line = Vec::new();
            if self.from.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                return Heard::Closed;
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            match line.split(' ').next().unwrap_or_default() {
                "PONG" => return Heard::Pong,
                "PING" => self.say(b"PONG\r\n").await,
                "-ERR" => return Heard::Error(line),
                "MSG" | "HMSG" => {
                    let length: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
                    let mut message = vec![0; length + 2];
                    if self.from.read_exact(&mut message).await.is_err() {
                        return Heard::Closed;
                    }
                    message.truncate(length);
                    return Heard::Message(message);
                }
                _ => {}
            }
        }
    }
}

/// No headers of NATS. Whoever sends them harms himself alone.
pub const UNREADABLE: [&[u8]; 8] = [
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nA: b\rc\r\n\r\n",
    b"NATS/1.0\r\nA: b\r\n c\rd\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nA b: c\r\n\r\n",
    b"NATS/1.0 99999\r\n\r\n",
    b"XXXX/1.0\r\n\r\n",
    b"\r\n\r\n",
];

/// Odd, but headers.
const ODD: [&[u8]; 8] = [
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\n: empty\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 408 Request Timeout\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\n\r\n",
    b"NATS/1.0\r\nA: b\r\n  folded\r\nA: c\r\n\r\n",
];

#[tokio::test(flavor = "multi_thread")]
async fn headers_written_by_hand_stop_nobody() {
    let stage = Stage::set().await;
    let mut wire = Wire::open(&stage, "client").await;
    let refused = |answer: &[u8]| String::from_utf8_lossy(answer).contains("\"field\":\"prompt\"");
    let long = [b"NATS/1.0\r\nA: ", &[b'a'; 100_000][..], b"\r\n\r\n"].concat();
    let many = [&b"NATS/1.0\r\n"[..], &b"A: b\r\n".repeat(10_000), b"\r\n"].concat();
    // One connection answers all of it: a request that meets a lost one is never answered.
    let all = ODD.into_iter().chain(UNREADABLE).chain([&long[..], &many]);
    for headers in all {
        wire.publish("spotreel.submit", "_INBOX.hand.1", headers, b"{}")
            .await;
        let answer = wire.message().await;
        assert!(refused(&answer), "{:?}", headers.escape_ascii().to_string());
    }
    assert_eq!(stage.messages().await, 0);
    assert!(!stage.ctx.stopping.is_cancelled());
}

/// What the server itself refuses: too much, or no NATS at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_hangs_up_on_nonsense() {
    let stage = Stage::set().await;
    let nine_megabytes = b"PUB spotreel.submit _INBOX.hand.1 9000000\r\n".to_vec();
    for said in [
        nine_megabytes,
        b"PUB spotreel.submit _INBOX.hand.1 18446744073709551616\r\n{}\r\n".to_vec(),
        b"PUB spotreel.submit _INBOX.hand.1 -1\r\n\r\n".to_vec(),
        b"HPUB spotreel.submit _INBOX.hand.1 9 2\r\n{}\r\n".to_vec(),
        b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        [b"PUB ", &[b'a'; 70_000][..], b" 0\r\n\r\n"].concat(),
        b"\0\0\0\0\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n".to_vec(),
    ] {
        let mut wire = Wire::open(&stage, "client").await;
        wire.say(&said).await;
        let heard = wire.answers().await;
        let shown = said[..said.len().min(60)].escape_ascii().to_string();
        assert_eq!(heard.last(), Some(&Heard::Closed), "{shown}: {heard:?}");
    }
    let strange = Wire::refused(&stage, "client", "wrong").await;
    assert!(strange.contains("Authorization Violation"), "{strange}");
    let answer = stage.ask("submit", "{}").await;
    assert_eq!(answer["error"]["code"], "invalid");
    assert_eq!(stage.messages().await, 0);
}

/// Everything that a client could use against the log, the services or other clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_not() {
    let stage = Stage::set().await;
    let mut wire = Wire::open(&stage, "client").await;
    for subject in [
        "spotreel.log.x.queued.ti2v-5B.0",
        "spotreel.log.x.succeeded",
        "spotreel.batchlog.default.1.requested",
        "spotreel.task.x.succeeded",
        "spotreel.rejected.1",
        "spotreel.batch.default-1.settled",
        "spotreel.progress.x",
        "spotreel.hint.x",
        "spotreel.worker.drain.i-1",
        "spotreel.worker.stay.i-1",
        "spotreel.ops.run",
        "spotreel.ops.hold",
        "spotreel.ops.resume",
        "spotreel.ops.stop",
        "spotreel.ops.drain",
        "spotreel.ops.key.create",
        "spotreel.mirror.CONSUMER.CREATE.EVENTS",
        "$KV.spotreel-marks.leader.fleet",
        "$KV.spotreel-controls.hold.default",
        "$KV.spotreel-workers.i-1",
        "$KV.spotreel-keys.x",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.STREAM.MSG.DELETE.EVENTS",
        "$JS.API.STREAM.RESTORE.EVENTS",
        "$JS.API.STREAM.SNAPSHOT.EVENTS",
        "$JS.API.CONSUMER.CREATE.TASKS.mine",
        "$JS.API.CONSUMER.MSG.NEXT.TASKS.ti2v-5B_0",
        "$JS.API.CONSUMER.MSG.NEXT.INBOX.intake",
        "$JS.ACK.TASKS.ti2v-5B_0.1.1.1.1.0",
        "$JS.ACK.INBOX.intake.1.1.1.1.0",
        "$SYS.REQ.SERVER.PING",
        "$SRV.PING",
        "_R_.x",
        "_INBOX_intake.x",
    ] {
        wire.publish(subject, "_INBOX.hand.1", b"", b"{}").await;
        let heard = wire.answers().await;
        assert!(denied(&heard, "Publish"), "publish {subject}: {heard:?}");
    }
    for subject in [
        ">",
        "*",
        "spotreel.>",
        "spotreel.*.*",
        "spotreel.submit",
        "spotreel.submit intakes",
        "spotreel.inbox",
        "spotreel.log.>",
        "spotreel.batchlog.>",
        "spotreel.hint.*",
        "spotreel.worker.drain.*",
        "spotreel.ops.>",
        "$KV.>",
        "$JS.>",
        "$JS.ACK.>",
        "$SYS.>",
        "$SRV.>",
        "_R_.>",
        "_INBOX_intake.>",
        "_INBOX_worker.>",
        "mirror.events.>",
    ] {
        wire.say(format!("SUB {subject} 9\r\n").as_bytes()).await;
        let heard = wire.answers().await;
        assert!(
            denied(&heard, "Subscription"),
            "subscribe {subject}: {heard:?}"
        );
    }
    assert_eq!(stage.messages().await, 0);
}

fn denied(heard: &[Heard], what: &str) -> bool {
    let words = format!("Permissions Violation for {what}");
    heard
        .iter()
        .any(|heard| matches!(heard, Heard::Error(error) if error.contains(&words)))
}

/// An answer goes where the client wants it to go, in its own account: never into a log.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_aimed() {
    let stage = Stage::set().await;
    let good = json!({"model": "ti2v-5B", "prompt": "x", "id": "good"}).to_string();
    assert_eq!(stage.ask("submit", good).await["id"], "good");
    let mut wire = Wire::open(&stage, "client").await;
    for aim in [
        "spotreel.log.good.succeeded",
        "spotreel.log.forged.queued.ti2v-5B.0",
        "spotreel.batchlog.default.1.requested",
        "spotreel.task.good.succeeded",
        "spotreel.rejected.1",
        "$KV.spotreel-marks.sweeper",
        "$JS.API.STREAM.PURGE.TASKS",
        "$JS.API.STREAM.DELETE.INBOX",
        "$JS.ACK.TASKS.ti2v-5B_1.1.1.1.1.0",
        "spotreel.ops.run",
        "spotreel.submit",
        "spotreel.inbox",
        "_R_.forged",
        "_INBOX_intake.forged",
        "_INBOX_worker.forged",
    ] {
        for verb in ["submit", "get", "list", "cancel", "retry"] {
            let subject = format!("spotreel.{verb}");
            wire.publish(&subject, aim, b"", br#"{"id":"nobody"}"#)
                .await;
        }
        wire.publish("spotreel.inbox", aim, b"", b"{}").await;
    }
    wire.answers().await;
    // Every request before this one was heard before it, but answers overtake each other: the inbox is waited for.
    until("the inbox is empty", async || {
        stage.stream("INBOX").await == 0
    })
    .await;
    assert_eq!(
        stage.ask("get", r#"{"id":"good"}"#).await["state"],
        "queued"
    );
    assert_eq!(stage.messages().await, 1);
}

impl Wire {
    /// What the server says to a wrong password.
    async fn refused(stage: &Stage, user: &str, password: &str) -> String {
        let address = stage.url.strip_prefix("nats://").unwrap();
        let (from, to) = TcpStream::connect(address).await.unwrap().into_split();
        let mut wire = Self {
            from: BufReader::new(from),
            to,
        };
        let hello = json!({"verbose": false, "user": user, "pass": password});
        wire.say(format!("CONNECT {hello}\r\nPING\r\n").as_bytes())
            .await;
        match wire.hear().await {
            Heard::Error(error) => error,
            other => format!("{other:?}"),
        }
    }
}
