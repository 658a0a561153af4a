//! Tests wait for conditions; they never sleep for their own sake.

use std::time::{Duration, Instant};

pub const POLL: Duration = Duration::from_millis(20);
/// Far more than anything takes that [`until`] waits for; a condition that is not met by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition gives something, and gives that. Panics, saying what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, timeout: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(
            began.elapsed() < timeout,
            "waited {timeout:?} in vain until {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the condition holds. Panics, saying what was waited for, also when asking takes for ever.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let met = tokio::time::timeout(PATIENCE, wait).await;
    assert!(met.is_ok(), "waited {PATIENCE:?} in vain until {what}");
}

/// Checks that the condition stays as it is for the whole time.
pub async fn always<F, Fut>(what: &str, during: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    while began.elapsed() < during {
        assert!(
            condition().await,
            "after {:?} it was no longer so that {what}",
            began.elapsed()
        );
        tokio::time::sleep(POLL).await;
    }
}
