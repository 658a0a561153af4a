//! The signals that stop a long transfer.

use tokio::signal::unix::{SignalKind, signal};

/// The first process of a container dies of no signal that it does not ask for.
pub async fn told_to_end() {
    let heard = async |kind| match signal(kind) {
        Ok(mut signal) => signal.recv().await,
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        _ = heard(SignalKind::interrupt()) => {}
        _ = heard(SignalKind::terminate()) => {}
    }
}
