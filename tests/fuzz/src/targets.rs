//! What reads bytes that somebody else wrote. A target panics where something is taken that must not be, or is read
//! otherwise than it was written; what it calls may not panic at all.

use jiff::Timestamp;
use spotreel_api::{KeyOrder, ListQuery, TaskRef, TaskRequest, TaskView};
use spotreel_bus::{Recorded, codec};
use spotreel_domain::api_key::Token;
use spotreel_domain::task::{Artifact, Failure, FailureKind, Task};
use spotreel_domain::{Owner, TaskId};
use spotreel_engine_protocol::{FromEngine, LineBuffer, ToEngine, decode, encode};
use spotreel_intake::images;
use spotreel_intake::parse::{self, Submission};
use spotreel_worker::gate::{self, Expectation};

/// Says whether the input was taken as what it claims to be.
pub type Target = fn(&[u8]) -> bool;

pub const ALL: [(&str, Target); 7] = [
    ("submission", submission),
    ("images", images),
    ("task_log", task_log),
    ("batch_log", batch_log),
    ("engine_line", engine_line),
    ("video", video),
    ("api_key", api_key),
];

/// The same input, the same answer: 2026-12-01T00:00:00Z.
fn now() -> Timestamp {
    Timestamp::from_second(1_796_083_200).expect("it is a time")
}

/// What clients send to intake's verbs, and to its inbox.
pub fn submission(input: &[u8]) -> bool {
    let requests = match parse::submission(input, None) {
        Ok(Submission::One(request)) => vec![*request],
        Ok(Submission::Many(requests)) => requests.into_iter().flatten().collect(),
        Err(refused) => {
            assert!(!refused.message.is_empty());
            Vec::new()
        }
    };
    let valid = requests.iter().filter(|request| is_valid(request)).count();
    let _ = parse::request::<TaskRef>(input, None);
    let _ = parse::request::<ListQuery>(input, None);
    valid > 0
}

fn is_valid(request: &TaskRequest) -> bool {
    let valid = match request.validate(now()) {
        Ok(valid) => valid,
        Err(broken) => {
            assert!(!broken.is_empty());
            return false;
        }
    };
    let spec = &valid.spec;
    assert!(spec.frames % 4 == 1 && (5..=121).contains(&spec.frames));
    assert!((1..=60).contains(&spec.steps));
    assert!(spec.guidance.is_finite() && spec.shift.is_finite());
    assert!(spec.prompt.chars().count() <= 2_000 && !spec.prompt.trim().is_empty());
    assert!(spec.seed < 1 << 53 && spec.labels.len() <= 16);
    assert_eq!(valid.content_hash.len(), 64);
    let id = valid
        .id
        .unwrap_or_else(|| TaskId::from_idempotency_key("fuzz"));
    let (_, task) = Task::submit(id, valid.spec, valid.content_hash, now());
    let again = codec::task::decode(&codec::task::encode(&task));
    assert_eq!(again.expect("what is written is read"), task);
    true
}

/// First frames, inline, uploaded or in the bucket.
pub fn images(input: &[u8]) -> bool {
    let Ok(taken) = images::examine(input) else {
        return false;
    };
    let (width, height) = (taken.width, taken.height);
    assert!((128..=8192).contains(&width) && (128..=8192).contains(&height));
    assert!(u64::from(width) * u64::from(height) <= 6_000_000 && taken.bytes.len() <= 20_000_000);
    // What engines are given is taken again as it is.
    let again = images::examine(&taken.bytes);
    assert!(again.is_ok_and(|again| again == taken));
    true
}

/// An event of the task log, and every step from there.
pub fn task_log(input: &[u8]) -> bool {
    let subject = "spotreel.log.fuzz.started";
    let Ok(recorded) = Recorded::from_parts(subject, 7, input, Default::default(), 0) else {
        return false;
    };
    let task = recorded.task;
    let again = codec::task::decode(&codec::task::encode(&task)).expect("what is written is read");
    // Floats that are no numbers differ from themselves.
    assert_eq!(codec::task::encode(&again), codec::task::encode(&task));
    let _ = serde_json::to_vec(&TaskView::from(&task));
    let failure = Failure {
        kind: FailureKind::Internal,
        message: "fuzz".into(),
    };
    let artifact = Artifact {
        bucket: "b".into(),
        key: "k".into(),
        sha256: "0".into(),
        bytes: 1,
        width: 1,
        height: 1,
        frames: 1,
        fps: 1,
        engine: "sim".into(),
        poster: None,
    };
    let steps = [
        task.started("w", "i", 0, now()),
        task.succeeded(artifact, now()),
        task.attempt_failed(failure.clone(), now()),
        task.interrupted(now()),
        task.declined(failure, now()),
        task.lost(false, now()),
        task.lost(true, now()),
        task.cancelled(now()),
        task.expired(now()),
        task.requeued(now()),
    ];
    for (event, task) in steps.into_iter().flatten() {
        let _ = codec::task::encode(&task.placed_at(8, event));
    }
    true
}

/// An event of a pool's log.
pub fn batch_log(input: &[u8]) -> bool {
    let Ok(batch) = codec::batch::decode(input) else {
        return false;
    };
    let again = codec::batch::decode(&codec::batch::encode(&batch));
    let again = again.expect("what is written is read");
    assert_eq!(codec::batch::encode(&again), codec::batch::encode(&batch));
    true
}

/// What an engine says to its worker, in pieces as they come, and a worker to its engine.
pub fn engine_line(input: &[u8]) -> bool {
    let mut lines = LineBuffer::default();
    let mut taken = false;
    let piece = usize::from(input.first().copied().unwrap_or(1)).max(1);
    for chunk in input.chunks(piece) {
        lines.push(chunk);
        while let Ok(Some(line)) = lines.next_line() {
            let _ = decode::<ToEngine>(&line);
            if let Ok(message) = decode::<FromEngine>(&line) {
                let _ = encode(&message);
                taken = true;
            }
        }
    }
    taken
}

/// A video that an engine has made, up to its pixels.
pub fn video(input: &[u8]) -> bool {
    let expected = Expectation {
        width: 64,
        height: 64,
        frames: 5,
        fps: 16,
    };
    let Ok(facts) = gate::check_bytes(input, &expected) else {
        return false;
    };
    assert_eq!((facts.frames, facts.bytes), (5, input.len() as u64));
    true
}

/// A key of the HTTP API, and an order to make one.
pub fn api_key(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let token = Token::parse(text);
    if let Ok(token) = &token {
        assert_eq!(token.expose(), text, "a key is written in one way only");
    }
    if let Ok(owner) = Owner::parse(text) {
        assert!(TaskId::parse(&owner.as_str().replace('.', "-")).is_ok());
    }
    let _ = parse::request::<KeyOrder>(input, None);
    token.is_ok()
}
