//! Presigned links: what anybody who has one may do with an object, until it expires.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;

use crate::key::{KeyError, check_key};
use crate::{RequestError, Store};

/// A URL, and how long it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub url: String,
    /// As asked for, or until the credentials expire that signed it: S3 refuses it from then on.
    pub lasts: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PresignError {
    #[error(transparent)]
    Key(#[from] KeyError),
    /// S3 takes one second to seven days.
    #[error("a link cannot be valid for {}s", expires.as_secs())]
    Expiry { expires: Duration },
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl PresignError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;

    use super::*;
    use crate::StoreConfig;
    use crate::credentials::now;

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
