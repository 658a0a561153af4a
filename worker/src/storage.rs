//! Reads from object storage, repeated while time may mend them.

use std::time::Duration;

use spotreel_bus::retry;

/// How long storage is asked again for what a render needs before the task is handed back: a render that begins anew costs
/// more than the wait.
const READ_GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// Runs a read until it succeeds, fails for good, or has failed for too long.
pub async fn read<T, E, F, Fut>(retryable: fn(&E) -> bool, mut operation: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let policy = backoff::ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(200))
        .with_max_interval(Duration::from_secs(10))
        .with_max_elapsed_time(Some(READ_GIVE_UP_AFTER))
        .build();
    retry(policy, || {
        // A read is large, and awaited in many places.
        let read = Box::pin(operation());
        async move {
            read.await.map_err(|error| match retryable(&error) {
                true => backoff::Error::transient(error),
                false => backoff::Error::Permanent(error),
            })
        }
    })
    .await
}
