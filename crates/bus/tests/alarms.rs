//! The record of the alarms and their events, against a real server, with monitor's rights.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use jiff::Timestamp;
use spotreel_bus::AlarmRecord;
use spotreel_bus::jetstream::{self, JetStreamError, Start};
use spotreel_bus::names::EVENTS;
use spotreel_domain::alarm::{AlarmBoard, AlarmName, AlarmNotice, NoticeState};
use spotreel_test_kit::Nats;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

fn notice(number: u64, name: AlarmName, state: NoticeState) -> AlarmNotice {
    AlarmNotice {
        number,
        name,
        about: None,
        state,
        at: at(1),
        fired_at: at(1),
        sentence: "seen".into(),
    }
}

#[tokio::test]
async fn the_record_is_stored_over_what_was_read() {
    let nats = Nats::for_services().await;
    let record = AlarmRecord::open(&nats.client("monitor").await).await;
    assert_eq!(record.read().await.unwrap(), None);
    let board = AlarmBoard::new(at(0));
    let first = record.store(&board, 0).await.unwrap();
    let late = record.store(&board, 0).await.unwrap_err();
    assert!(matches!(late, JetStreamError::Conflict), "{late}");
    let newer = AlarmBoard::new(at(5));
    let second = record.store(&newer, first).await.unwrap();
    assert_eq!(record.read().await.unwrap(), Some((second, newer)));
}

#[tokio::test]
async fn a_notice_is_published_once_and_no_earlier_one_after_it() {
    let nats = Nats::for_services().await;
    let client = nats.client("monitor").await;
    let (one, other) = (
        AlarmRecord::open(&client).await,
        AlarmRecord::open(&client).await,
    );
    let backlog = |number, state| notice(number, AlarmName::Backlog, state);
    let told = [
        one.tell(&backlog(10, NoticeState::Firing)).await,
        other.tell(&backlog(10, NoticeState::Firing)).await,
        other.tell(&backlog(12, NoticeState::Resolved)).await,
        one.tell(&backlog(10, NoticeState::Firing)).await,
        // Of another name, it has an order of its own.
        one.tell(&notice(11, AlarmName::LogRoom, NoticeState::Firing))
            .await,
    ];
    assert_eq!(told.map(Result::unwrap), [true, false, true, false, true]);
    let root = nats.client("provision").await;
    let stored = jetstream::page(&root, EVENTS, ">", Start::Sequence(1), 10)
        .await
        .unwrap();
    let subjects: Vec<_> = stored.iter().map(|event| event.subject.as_str()).collect();
    let expected = ["backlog.firing", "backlog.resolved", "log_room.firing"];
    assert_eq!(
        subjects,
        expected.map(|event| format!("spotreel.alarm.{event}"))
    );
}
