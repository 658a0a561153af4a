//! The names that others' safety depends on.

use spotreel_bus::names::{self, VERBS};

#[test]
fn an_answer_goes_to_an_inbox_and_nowhere_else() {
    for inbox in ["_INBOX.abc.1", "_INBOX_trigger.abc.1", "_R_.abc.def"] {
        assert!(names::is_inbox(inbox), "{inbox}");
    }
    let mut others = vec![
        "",
        " ",
        "INBOX.a",
        "x._INBOX.a",
        "spotreel._INBOX.a",
        "spotreel.inbox",
        names::LOG_ALL,
        names::BATCHLOG_ALL,
        "spotreel.log.a.succeeded",
        "spotreel.task.a.succeeded",
        "spotreel.hint.a",
        "spotreel.worker.drain.i-1",
        "$KV.spotreel-controls.hold.default",
        "$KV.spotreel-keys.a",
        "$JS.API.STREAM.PURGE.TASKS",
        "$JS.ACK.TASKS.sweeper.1.1.1.1.0",
        "$SRV.PING",
        "$SYS.REQ.SERVER.PING",
        "mirror.events.a",
        "_inbox.a",
    ];
    others.extend(VERBS);
    for other in others {
        assert!(!names::is_inbox(other), "{other}");
    }
}
