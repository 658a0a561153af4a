//! Trying again, with the delays of the `backoff` crate.

use backoff::backoff::Backoff;

/// Runs `operation` until it succeeds, fails for good, or the policy is exhausted. The `backoff` crate gives the
/// delays; its own runner is not used because it wants a runtime feature of its own.
pub async fn retry<T, E, F, Fut>(
    mut policy: backoff::ExponentialBackoff,
    mut operation: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, backoff::Error<E>>>,
{
    policy.reset();
    loop {
        match operation().await {
            Ok(done) => return Ok(done),
            Err(backoff::Error::Permanent(error)) => return Err(error),
            Err(backoff::Error::Transient { err, .. }) => match policy.next_backoff() {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(err),
            },
        }
    }
}
