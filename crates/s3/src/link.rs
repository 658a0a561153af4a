//! Presigned links: what anybody who has one may do with an object, until it expires.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::presigning::PresigningConfig;
use parking_lot::Mutex;

use crate::key::check_key;
use crate::{PresignError, RequestError, Store};

/// A URL, and how long it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub url: String,
    /// As asked for, or until the credentials expire that signed it: S3 refuses it from then on.
    pub lasts: Duration,
}

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
    fn at_most(&self, wanted: Duration) -> Duration {
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

impl Store {
    /// A link that whoever has it may GET, ranges included. A browser saves the object as `file_name`.
    pub async fn presign_get(
        &self,
        key: &str,
        file_name: Option<&str>,
        expires: Duration,
    ) -> Result<Link, PresignError> {
        check_key(key)?;
        let request = self.signer.get_object().bucket(&self.bucket).key(key);
        let disposition = file_name.map(|name| format!("inline; filename=\"{name}\""));
        let request = request.set_response_content_disposition(disposition);
        let signed = request.presigned(valid_for(expires)?).await;
        let signed = signed.map_err(|error| RequestError::new("PresignGetObject", error))?;
        Ok(self.link(signed.uri(), expires))
    }

    /// A link for HEAD: the signature of one for GET does not cover it.
    pub async fn presign_head(&self, key: &str, expires: Duration) -> Result<Link, PresignError> {
        check_key(key)?;
        let request = self.signer.head_object().bucket(&self.bucket).key(key);
        let signed = request.presigned(valid_for(expires)?).await;
        let signed = signed.map_err(|error| RequestError::new("PresignHeadObject", error))?;
        Ok(self.link(signed.uri(), expires))
    }

    fn link(&self, url: &str, expires: Duration) -> Link {
        let credentials = self.credentials.as_ref();
        Link {
            url: url.to_owned(),
            lasts: credentials.map_or(expires, |credentials| credentials.at_most(expires)),
        }
    }
}

fn valid_for(expires: Duration) -> Result<PresigningConfig, PresignError> {
    PresigningConfig::expires_in(expires).map_err(|_| PresignError::Expiry { expires })
}

#[expect(
    clippy::disallowed_methods,
    reason = "credentials expire by the clock on the wall, and this crate has no other source of it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;
    use crate::{StoreConfig, store::Store};

    #[tokio::test]
    async fn a_link_never_claims_to_live_longer_than_the_credentials_that_signed_it() {
        let config = StoreConfig::at("http://127.0.0.1:9", "us-east-1", "videos");
        let hour = Duration::from_secs(3_600);
        let of = async |expiry: Option<SystemTime>| {
            let keys = Credentials::new("key", "secret", Some("session".into()), expiry, "role");
            let store = Store::connect_as(&config, SharedCredentialsProvider::new(keys)).await;
            store.presign_get("v.mp4", None, hour).await.unwrap().lasts
        };
        assert_eq!(of(None).await, hour);
        let minutes = Duration::from_secs(600);
        let lasts = of(Some(now() + minutes)).await;
        assert!(lasts <= minutes && lasts > minutes / 2, "{lasts:?}");
    }
}
