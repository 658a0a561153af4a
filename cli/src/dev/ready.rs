//! Waiting until everything says that it is ready.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use spotreel_bus::NatsConfig;
use tokio::time::{Instant, sleep};

use super::children::Children;
use super::http;
use super::programs::NATS;

/// A busy machine with debug builds is ready in a few seconds; a server with a large store reads it first.
const READY_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// Of a program that failed, the end of its log is shown.
const LAST_LINES: usize = 6;

/// Until the server lets `config` in.
pub async fn nats(config: &NatsConfig, children: &mut Children) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let Err(error) = crate::connection::open(config, "provision").await else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            bail!("{error}\n{}", log_end(&children.log_of(NATS)));
        }
        sleep(POLL).await;
    }
}

/// Until each child that can be asked answers 200.
pub async fn all(children: &mut Children) -> anyhow::Result<()> {
    let http = http::client()?;
    let waiting: Vec<(String, String)> = children
        .ready_urls()
        .map(|(name, url)| (name.to_owned(), url.to_owned()))
        .collect();
    let deadline = Instant::now() + READY_WITHIN;
    for (name, url) in waiting {
        loop {
            let reason = match ask(&http, &url).await {
                Ok(()) => break,
                Err(reason) => reason,
            };
            if Instant::now() >= deadline {
                let log = children.log_of(&name);
                bail!("{name} is not ready: {reason}\n{}", log_end(&log));
            }
            tokio::select! {
                () = sleep(POLL) => {}
                refused = children.refusal() => {
                    let log = children.log_of(&refused);
                    bail!("{refused} refuses its configuration\n{}", log_end(&log));
                }
            }
        }
    }
    Ok(())
}

/// What `/readyz` says in the way.
async fn ask(http: &reqwest::Client, url: &str) -> Result<(), String> {
    let answer = http
        .get(url)
        .send()
        .await
        .map_err(|_| format!("no answer at {url}"))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let body: Value = answer
        .text()
        .await
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let reasons: Vec<String> = body["checks"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, check)| check["ok"] != true)
        .map(|(name, check)| format!("{name}: {}", check["reason"].as_str().unwrap_or("not ok")))
        .collect();
    Err(reasons.join("; "))
}

fn log_end(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = &lines[lines.len().saturating_sub(LAST_LINES)..];
    format!("the end of {}:\n  {}", path.display(), end.join("\n  "))
}
