//! What the clients' account can do and what it cannot, tried by a client that shares no code with the product.

use std::process::{Command, Stdio};

use spotreel_tests::harness::nats::password;
use spotreel_tests::harness::{System, SystemOptions, root};

const PROMISES: [&str; 7] = [
    "verbs",
    "inbox",
    "videos",
    "durable",
    "discovery",
    "forbidden",
    "forged",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_another_language_can_use_spotreel_and_cannot_harm_it() {
    let system = System::start(SystemOptions::default()).await;
    let local = root().join(".venv/bin/python3");
    let python = if local.is_file() {
        local
    } else {
        "python3".into()
    };
    let (client, inside) = (password("client"), password("provision"));
    let operator = password("operator");
    let output = tokio::task::spawn_blocking({
        let url = system.nats.url.clone();
        move || {
            Command::new(python)
                .arg(root().join("tests/py/client.py"))
                .args([&url, "client", &client, "provision", &inside, &operator])
                .stdin(Stdio::null())
                .output()
        }
    });
    let output = output
        .await
        .expect("no panic")
        .expect("python3 is needed: run `make tools`");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    for promise in PROMISES {
        assert!(
            said.lines().any(|line| line == format!("ok {promise}")),
            "{promise} does not hold:\n{said}{complained}\n{}",
            system.logs()
        );
    }
    assert!(output.status.success(), "{said}{complained}");
}
