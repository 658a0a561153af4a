//! The connection: configuration, clients, limits.

use std::fmt;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedCredentialsProvider;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region};
use serde::{Deserialize, Serialize};

use crate::credentials::Watched;

/// The SDK's standard number; whoever calls has tries of its own above these.
const MAX_ATTEMPTS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the first byte of an answer; completing a large multipart upload may take S3 minutes, but it answers at once.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// One try, with its body: 16 MiB, the largest single PUT, at 2 Mbit/s takes 67 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(90);
/// All tries together.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(240);

/// Under which name an object's metadata carries the SHA-256 of its bytes, in hex.
pub(crate) const SHA256_METADATA: &str = "sha256";

/// Where the bucket is. Credentials are not here: they come from the environment, as everywhere in AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    pub bucket: String,
    pub region: String,
    /// None: AWS.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`; what stores without wildcard DNS need.
    #[serde(default)]
    pub force_path_style: bool,
    /// The endpoint as a browser reaches it, for presigned links; none: `endpoint_url`.
    #[serde(default)]
    pub public_endpoint_url: Option<String>,
}

impl StoreConfig {
    /// A bucket of a store at one address, which knows buckets by their path: one that is not Amazon's.
    pub fn at(endpoint_url: &str, region: &str, bucket: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            region: region.to_owned(),
            endpoint_url: Some(endpoint_url.to_owned()),
            force_path_style: true,
            public_endpoint_url: None,
        }
    }
}

/// A pair of static keys, for the local cloud and tests.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
}

impl Keys {
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// One bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) client: Client,
    /// Signs for the public endpoint; a signature covers the host.
    pub(crate) signer: Client,
    pub(crate) bucket: String,
    pub(crate) region: String,
    /// What signs links; none: the store is read without any.
    pub(crate) credentials: Option<Watched>,
}

impl Store {
    /// Credentials from the default chain: environment, profile, instance role. Sends nothing; [`Store::check`] does.
    pub async fn connect(config: &StoreConfig) -> Self {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let region = Region::new(config.region.clone());
        Self::over(config, &loader.region(region).load().await)
    }

    /// As [`Store::connect`], with keys at hand.
    pub async fn connect_with_keys(config: &StoreConfig, keys: Keys) -> Self {
        let keys = Credentials::new(keys.access_key, keys.secret_key, None, None, "static");
        Self::connect_as(config, SharedCredentialsProvider::new(keys)).await
    }

    pub(crate) async fn connect_as(
        config: &StoreConfig,
        credentials: SharedCredentialsProvider,
    ) -> Self {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let loader = loader.credentials_provider(credentials);
        let region = Region::new(config.region.clone());
        Self::over(config, &loader.region(region).load().await)
    }

    fn over(config: &StoreConfig, shared: &SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let base = Builder::from(shared)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
            .timeout_config(timeouts)
            .force_path_style(config.force_path_style);
        let credentials = shared.credentials_provider().map(Watched::new);
        let at = |endpoint: Option<&String>| {
            let mut builder = base.clone();
            if let Some(credentials) = &credentials {
                builder = builder.credentials_provider(credentials.clone());
            }
            if let Some(url) = endpoint {
                builder = builder.endpoint_url(url);
            }
            Client::from_conf(builder.build())
        };
        let public = config.public_endpoint_url.as_ref();
        Self {
            client: at(config.endpoint_url.as_ref()),
            signer: at(public.or(config.endpoint_url.as_ref())),
            bucket: config.bucket.clone(),
            region: config.region.clone(),
            credentials,
        }
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }
}
