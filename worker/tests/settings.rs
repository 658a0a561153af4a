//! A setting that cannot be right ends a worker on a bought machine in seconds, and is named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use spot::Stage;

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
