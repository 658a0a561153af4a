//! The one place of this crate that reads the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, for `Last-Modified`.
#[allow(clippy::disallowed_methods)] // a cloud stamps its objects itself: nobody hands it the time
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A name nobody else has, in this process or an earlier one over the same directory.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:011x}-{:x}-{count:x}", now_ms(), std::process::id())
}
