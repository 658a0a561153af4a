//! Watches monitor, which cannot tell by itself that it does not run: its record of the alarms grows old then.

use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::ambient;
use spotreel_bus::AlarmRecord;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_domain::time::elapsed;
use tokio_util::sync::CancellationToken;

use crate::config::SilenceConfig;

/// Until told to stop.
pub(crate) async fn watch(nats: Client, config: SilenceConfig, stopping: CancellationToken) {
    if !config.on {
        return stopping.cancelled().await;
    }
    let record = AlarmRecord::open(&nats).await;
    let mut tick = tokio::time::interval(config.every);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopping.cancelled() => return,
        }
        match look(&record, config.after).await {
            Ok(()) => failing = false,
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(error = %spotreel_domain::chain(&error), "alarm record cannot be read or written: an outage of monitor would not be reported");
            }
            Err(_) => {}
        }
    }
}

/// Stores that monitor is silent, then tells so; also what it has left untold.
async fn look(record: &AlarmRecord, after: Duration) -> Result<(), JetStreamError> {
    let Some((mut revision, mut board)) = record.read().await? else {
        return Ok(());
    };
    if let Some(silent) = board.without_monitor(after, ambient::now()) {
        revision = match record.store(&silent, revision).await {
            // Monitor looks again, or another notifier was first.
            Err(JetStreamError::Conflict) => return Ok(()),
            stored => stored?,
        };
        board = silent;
    }
    if board.untold.is_empty() || elapsed(board.at, ambient::now()) < after {
        return Ok(());
    }
    for notice in &board.untold {
        if record.tell(notice).await? {
            let (alarm, about) = (notice.name.as_str(), notice.about.as_deref());
            tracing::error!(alarm, about, sentence = notice.sentence, "alarm fired");
        }
    }
    board.untold.clear();
    match record.store(&board, revision).await {
        Ok(_) | Err(JetStreamError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}
