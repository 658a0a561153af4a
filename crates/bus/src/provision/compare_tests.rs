use super::*;

fn stream_of(change: Value) -> Comparison {
    let wanted = json!({
        "name": "EVENTS", "subjects": ["a.>", "b.*"], "retention": "limits", "storage": "file",
        "discard": "old", "max_bytes": 100, "max_age": 2_000_000_000_u64, "max_msgs_per_subject": 0,
        "num_replicas": 1, "allow_atomic": true, "deny_purge": false, "description": "events",
        "mirror": { "name": "M", "external": { "api": "x", "deliver": null } },
    });
    let mut there = wanted.clone();
    there["mirror"]["opt_start_seq"] = json!(1);
    there["max_msgs_per_subject"] = json!(-1);
    let Value::Object(fields) = change else {
        panic!("{change} is no object");
    };
    there.as_object_mut().unwrap().extend(fields);
    stream(&wanted, &there)
}

#[track_caller]
fn changes(change: Value, expected: &[&str]) -> Comparison {
    let found = stream_of(change);
    assert_eq!(found.changes, expected);
    assert!(found.refusals.is_empty(), "{:?}", found.refusals);
    found
}

#[track_caller]
fn refuses(found: &Comparison, expected: &str) {
    assert_eq!(found.refusals.len(), 1, "{found:?}");
    assert!(found.refusals[0].contains(expected), "{found:?}");
}

#[test]
fn what_is_as_needed_needs_nothing() {
    let found = changes(json!({}), &[]);
    assert!(found.update.is_empty() && found.kept.is_empty());
}

#[test]
fn what_is_too_narrow_is_widened() {
    let found = changes(json!({ "subjects": ["b.*"] }), &["subjects a.> added"]);
    assert_eq!(found.update["subjects"], json!(["b.*", "a.>"]));
    changes(
        json!({ "allow_atomic": false }),
        &["allow_atomic turned on"],
    );
    changes(json!({ "allow_atomic": null }), &["allow_atomic turned on"]);
    changes(
        json!({ "max_bytes": 99 }),
        &["max_bytes raised from 99 bytes to 100 bytes"],
    );
    changes(
        json!({ "max_age": 1_000_000_000 }),
        &["max_age raised from 1 s to 2 s"],
    );
    changes(json!({ "description": null }), &["description added"]);
}

#[test]
fn what_is_wider_than_needed_is_kept() {
    for (change, kept) in [
        (json!({ "subjects": ["a.>", "b.*", "c"] }), None),
        (json!({ "subjects": [">"] }), None),
        (
            json!({ "max_bytes": 101 }),
            Some("max_bytes 101 bytes (needs 100 bytes)"),
        ),
        (
            json!({ "max_bytes": -1 }),
            Some("max_bytes unlimited (needs 100 bytes)"),
        ),
        (
            json!({ "max_age": 0 }),
            Some("max_age unlimited (needs 2 s)"),
        ),
        (
            json!({ "num_replicas": 3 }),
            Some("num_replicas 3 (needs 1)"),
        ),
        (json!({ "description": "ours" }), None),
        (
            json!({ "allow_msg_ttl": true, "placement": { "cluster": "x" }, "compression": "s2" }),
            None,
        ),
    ] {
        let found = changes(change, &[]);
        assert_eq!(found.kept.first().map(String::as_str), kept);
        assert!(found.update.is_empty());
    }
}

#[test]
fn what_only_a_person_may_change_is_refused_with_both_values_and_the_cure() {
    for (change, expected) in [
        (
            json!({ "retention": "interest" }),
            "retention is interest, this version needs limits: it has to be made anew",
        ),
        (
            json!({ "storage": "memory" }),
            "storage is memory, this version needs file: it has to be made anew",
        ),
        (
            json!({ "discard": "new" }),
            "discard is new, this version needs old: edit it",
        ),
        (
            json!({ "num_replicas": 0 }),
            "num_replicas is 0, this version needs 1: edit it",
        ),
        (json!({ "mirror": null }), "mirror is not set"),
        (
            json!({ "mirror": { "name": "other", "external": { "api": "x" } } }),
            "it has to be made anew",
        ),
    ] {
        refuses(&stream_of(change), expected);
    }
}

#[test]
fn a_subject_that_a_new_one_covers_makes_room_for_it() {
    let found = stream_of(json!({ "subjects": ["a.x", "a.*.y", "b.*", "c.>"] }));
    assert_eq!(found.update["subjects"], json!(["b.*", "c.>", "a.>"]));
}

#[test]
fn a_subject_covers_what_it_matches_and_no_more() {
    for (wide, narrow) in [
        ("a.>", "a.b.c"),
        ("a.>", "a.*"),
        ("a.>", "a.>"),
        ("*.b", "a.b"),
        ("*", "*"),
        (">", "a"),
    ] {
        assert!(covers(wide, narrow), "{wide} {narrow}");
    }
    for (wide, narrow) in [
        ("a.>", "a"),
        ("a.*", "a.>"),
        ("a.*", "a.b.c"),
        ("a.b", "a.*"),
        ("a", "a.b"),
        ("*.b", "a.c"),
    ] {
        assert!(!covers(wide, narrow), "{wide} {narrow}");
    }
}

fn consumer_of(wanted: Value, there: Value) -> Comparison {
    let [wanted, there] = &[wanted, there];
    consumer(wanted, there, false)
}

#[test]
fn a_consumer_gains_filters_in_either_form() {
    let found = consumer_of(
        json!({ "filter_subjects": ["a", "b"] }),
        json!({ "filter_subject": "a" }),
    );
    assert_eq!(found.changes, ["filter b added"]);
    assert_eq!(found.new_filters, ["b"]);
    assert_eq!(found.update["filter_subjects"], json!(["a", "b"]));
    assert_eq!(found.update["filter_subject"], Value::Null);
    let found = consumer_of(
        json!({ "filter_subject": "a.>" }),
        json!({ "filter_subjects": ["a.x", "a.y"] }),
    );
    assert_eq!(found.update["filter_subject"], "a.>");
    assert_eq!(found.update["filter_subjects"], Value::Null);
    for there in [
        json!({ "filter_subjects": ["c", "b", "a"] }),
        json!({ "filter_subject": ">" }),
        json!({}),
    ] {
        let found = consumer_of(json!({ "filter_subjects": ["a", "b"] }), there);
        assert!(found.changes.is_empty() && found.refusals.is_empty());
    }
}

#[test]
fn a_consumer_of_work_takes_its_own_alone() {
    let wanted = json!({ "filter_subject": "q.x" });
    for there in [
        json!({ "filter_subject": "q.>" }),
        json!({}),
        json!({ "filter_subjects": ["q.x", "q.y"] }),
    ] {
        refuses(&consumer(&wanted, &there, true), "filter_subject is ");
    }
    assert!(consumer(&wanted, &wanted, true).refusals.is_empty());
}

#[test]
fn one_at_a_time_stays_one_at_a_time() {
    refuses(
        &consumer_of(
            json!({ "max_ack_pending": 1 }),
            json!({ "max_ack_pending": 50 }),
        ),
        "max_ack_pending is 50, this version needs 1: edit it",
    );
    let found = consumer_of(
        json!({ "max_ack_pending": 50 }),
        json!({ "max_ack_pending": 1 }),
    );
    assert_eq!(found.changes, ["max_ack_pending raised from 1 to 50"]);
    let found = consumer_of(
        json!({ "max_ack_pending": -1 }),
        json!({ "max_ack_pending": 50 }),
    );
    assert_eq!(
        found.changes,
        ["max_ack_pending raised from 50 to unlimited"]
    );
    for more in [51, -1] {
        let found = consumer_of(
            json!({ "max_ack_pending": 50 }),
            json!({ "max_ack_pending": more }),
        );
        assert!(found.changes.is_empty() && found.refusals.is_empty());
        assert_eq!(found.kept.len(), 1);
    }
}

#[test]
fn a_consumer_that_the_server_cannot_change_is_refused() {
    let there = json!({ "ack_policy": "none", "ack_wait": 60_000_000_000_u64, "max_waiting": 512 });
    refuses(
        &consumer_of(json!({ "ack_policy": "explicit" }), there.clone()),
        "ack_policy is none, this version needs explicit: it has to be made anew",
    );
    refuses(
        &consumer_of(json!({ "max_waiting": 4_096 }), there.clone()),
        "max_waiting is 512, this version needs 4096: it has to be made anew",
    );
    let longer = consumer_of(json!({ "ack_wait": 90_000_000_000_u64 }), there.clone());
    assert_eq!(longer.changes, ["ack_wait raised from 60 s to 90 s"]);
    let shorter = consumer_of(json!({ "ack_wait": 5_000_000_000_u64 }), there);
    assert_eq!(shorter.kept, ["ack_wait 60 s (needs 5 s)"]);
}
