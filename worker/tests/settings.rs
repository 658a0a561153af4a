//! A setting that cannot be right ends a worker on a bought machine in seconds, and is named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use spot::{Stage, until};
use spotreel_bootstrap::EXIT_UNFIT_MACHINE;

const BOUGHT: (&str, &str) = ("cloud.metadata", "on");

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_or_password_of_the_server_is_named() {
    let stage = Stage::set().await;
    for (name, setting, key) in [
        ("password", ("nats.password", "of-another"), "nats.password"),
        (
            "address",
            ("nats.url", "nats://no-such-name.invalid:4222"),
            "nats.url",
        ),
    ] {
        let mut worker = stage.worker(name, 0, &[BOUGHT, setting]);
        assert_eq!(worker.left().await, Some(1));
        let said = worker.said();
        assert!(said.contains(&format!("{key} ")), "{said}");
        assert!(!said.contains("of-another"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_start_gives_a_bought_machine_up_within_seconds() {
    let stage = Stage::set().await;
    let broken = r#"["/bin/sh", "-c", "echo no kernel image for this card >&2; exit 3"]"#;
    let engine = ("engine.command", broken);
    let mut worker = stage.worker("bought", 0, &[BOUGHT, engine]);
    assert_eq!(worker.left().await, Some(EXIT_UNFIT_MACHINE.into()));
    let said = worker.said();
    let last = said.lines().rfind(|line| line.contains(" ERROR ")).unwrap();
    for told in ["did not start", "status 3", "no kernel image for this card"] {
        assert!(last.contains(told), "{last}");
    }

    // One's own machine tries for as long as it takes.
    let own = ("cloud.metadata", "off");
    let mut worker = stage.worker("own", 0, &[own, engine]);
    until("it has tried more often", async || {
        let said = worker.said();
        let tries = said
            .lines()
            .filter(|line| line.contains("engine failed to start"));
        tries.count() > 5
    })
    .await;
    assert!(worker.is_running());
}
