//! What `--check-config` refuses, of every program.

use std::process::Command;

use spotreel_bootstrap::EXIT_CONFIG;
use spotreel_tests::harness::program::binary;

/// A program, a setting that it cannot work with, and the key that it names.
const BAD: &[(&str, &str, &str)] = &[
    ("intake", "nats.url=nats://host:port", "nats.url"),
    ("intake", "concurrent_requests=0", "concurrent_requests"),
    ("intake", "inbox.in_flight=0", "inbox.in_flight"),
    ("intake", "request_memory_mib=8", "request_memory_mib"),
    ("intake", "inbox.memory_mib=8", "inbox.memory_mib"),
    (
        "intake",
        "request_mib_per_second=0",
        "request_mib_per_second",
    ),
    ("intake", "s3.link_lasts=8d", "s3.link_lasts"),
    ("intake", "commit.in_flight=0", "commit.in_flight"),
    (
        "intake",
        "commit.largest_batch=1001",
        "commit.largest_batch",
    ),
    ("intake", "limits.burst=9999", "limits.burst"),
    (
        "intake",
        "limits.tasks_per_second=0",
        "limits.tasks_per_second",
    ),
    (
        "intake",
        "limits.max_queued_per_owner=0",
        "limits.max_queued_per_owner",
    ),
    (
        "intake",
        "limits.log_room_percent=101",
        "limits.log_room_percent",
    ),
    (
        "intake",
        "limits.owner_log_percent=0",
        "limits.owner_log_percent",
    ),
    ("intake", "limits.poll=0s", "limits.poll"),
    (
        "intake",
        "api.allow_origins=[\"a.example\"]",
        "api.allow_origins",
    ),
    ("intake", "api.followers=0", "api.connections"),
    ("intake", "api.body_memory_mib=27", "api.body_memory_mib"),
    (
        "intake",
        "api.owner_share_percent=0",
        "api.owner_share_percent",
    ),
    ("intake", "api.keep_alive=0s", "api.body_timeout"),
    ("notifier", "nats.url=nats://host:port", "nats.url"),
    ("notifier", "link_expires=8d", "link_expires"),
    ("notifier", "pull_wait=0s", "pull_wait"),
    ("notifier", "retry_first=0s", "retry_first"),
    ("notifier", "retry_longest=1ms", "retry_longest"),
    ("monitor", "alarms.every=2m", "alarms.every"),
    ("monitor", "alarms.resolve_after=0s", "alarms.resolve_after"),
    (
        "monitor",
        "alarms.budget.percents=[100, 50]",
        "alarms.budget.percents",
    ),
    ("monitor", "alarms.budget.stop=now", "alarms.budget.stop"),
    (
        "monitor",
        "alarms.service_silent.hold=1s",
        "alarms.service_silent.hold",
    ),
    (
        "monitor",
        "alarms.service_silent.programs=[\"worker\"]",
        "alarms.service_silent.programs",
    ),
    ("monitor", "alarms.backlog.colour=red", "colour"),
    (
        "notifier",
        "monitor_silence.after=1m",
        "monitor_silence.after",
    ),
    ("monitor", "nats.url=nats://host:port", "nats.url"),
    ("monitor", "inbox.pull_wait=0s", "inbox.pull_wait"),
    ("monitor", "reconcile.every=0s", "reconcile.every"),
    ("monitor", "janitor.concurrent=0", "janitor.concurrent"),
    ("monitor", "sweeper.mark_every=16s", "sweeper.mark_every"),
    (
        "monitor",
        "janitor.keep_finished=1s",
        "janitor.keep_finished",
    ),
    ("monitor", "janitor.room_percent=0", "janitor.room_percent"),
    (
        "monitor",
        "reconcile.log_warn_percent=101",
        "reconcile.log_warn_percent",
    ),
    ("trigger", "nats.url=nats://host:port", "nats.url"),
    ("trigger", "reconcile.every=0s", "reconcile.every"),
    ("trigger", "reconcile.gap=1h", "reconcile.gap"),
    ("trigger", "prices.good_for=1s", "prices.good_for"),
    ("trigger", "pools=/nowhere/pools.toml", "`pools`"),
    ("fleet", "nats.url=nats://host:port", "nats.url"),
    ("fleet", "env=", "env"),
    ("fleet", "sweep.every=0s", "sweep.every"),
    ("fleet", "prices.good_for=1s", "prices.good_for"),
    ("fleet", "concurrent_requests=0", "concurrent_requests"),
    ("fleet", "pools=/nowhere/pools.toml", "`pools`"),
    ("worker", "nats.url=nats://host:port", "nats.url"),
    ("worker", "models=[]", "models"),
    ("worker", "engine.command=[]", "engine.command"),
    ("worker", "pull_wait=0s", "pull_wait"),
    ("worker", "cloud.poll=0s", "cloud.poll"),
    ("worker", "packs.connections=0", "packs.connections"),
    ("worker", "retry.scale=-1.0", "retry.scale"),
    ("worker", "salvage.safety=-0.5", "salvage.safety"),
    ("worker", "retry.scale=inf", "retry.scale"),
];

#[test]
fn every_program_refuses_a_bad_value_before_it_starts_and_names_the_key() {
    for (program, setting, key) in BAD {
        let checked = Command::new(binary(&format!("spotreel-{program}")))
            .args(["--check-config", "--set", setting])
            .output()
            .expect("it can be started");
        let said = String::from_utf8_lossy(&checked.stderr);
        let code = checked.status.code();
        assert_eq!(
            code,
            Some(EXIT_CONFIG.into()),
            "{program} {setting}: {said}"
        );
        assert!(said.contains(key), "{program} {setting}: {said}");
    }
}
