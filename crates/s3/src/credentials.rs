//! Credentials whose end is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use parking_lot::Mutex;

/// Credentials as another provider gives them. Keeps in mind when the newest expire.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    inner: SharedCredentialsProvider,
    expiry: Arc<Mutex<Option<SystemTime>>>,
}

impl Watched {
    pub fn new(inner: SharedCredentialsProvider) -> Self {
        Self {
            inner,
            expiry: Arc::default(),
        }
    }

    /// How much of `wanted` the credentials that were given last are valid for.
    pub fn at_most(&self, wanted: Duration) -> Duration {
        let expiry = *self.expiry.lock();
        expiry.map_or(wanted, |at| {
            let left = at.duration_since(now()).unwrap_or_default();
            wanted.min(left)
        })
    }
}

impl ProvideCredentials for Watched {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.inner.provide_credentials().await?;
            let mut expiry = self.expiry.lock();
            *expiry = credentials.expiry();
            drop(expiry);
            Ok(credentials)
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "credentials expire by the clock on the wall, and this crate has no other source of it"
)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
