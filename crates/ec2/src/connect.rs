//! The connection: configuration, clients, limits.

use std::fmt;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{Credentials, Region};
use serde::{Deserialize, Serialize};

/// The SDK's standard number, for calls that may be made twice.
const MAX_ATTEMPTS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try of a call that reads or ends something: EC2 answers those within a second or two.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// An instant fleet is answered once its instances are placed, which takes EC2 many seconds.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Where EC2 is. Credentials are not here: they come from the environment, as everywhere in AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ec2Config {
    pub region: String,
    /// None: AWS.
    #[serde(default)]
    pub endpoint_url: Option<String>,
}

/// A pair of static keys, for the local cloud and tests.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// EC2 in one region. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ec2 {
    pub(crate) client: aws_sdk_ec2::Client,
    /// For launches alone: one long try.
    pub(crate) launcher: aws_sdk_ec2::Client,
    pub(crate) quotas: aws_sdk_servicequotas::Client,
    pub(crate) region: String,
}

impl Ec2 {
    /// Credentials from the default chain: environment, profile, instance role. Sends nothing.
    pub async fn connect(config: &Ec2Config) -> Self {
        let loader = aws_config::defaults(BehaviorVersion::latest());
        let region = Region::new(config.region.clone());
        Self::over(config, &loader.region(region).load().await)
    }

    /// As [`Ec2::connect`], with keys at hand.
    pub async fn connect_with_keys(config: &Ec2Config, keys: Keys) -> Self {
        let keys = Credentials::new(keys.access_key, keys.secret_key, None, None, "static");
        let loader = aws_config::defaults(BehaviorVersion::latest()).credentials_provider(keys);
        let region = Region::new(config.region.clone());
        Self::over(config, &loader.region(region).load().await)
    }

    fn over(config: &Ec2Config, shared: &SdkConfig) -> Self {
        let timeouts = |attempt| {
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(attempt)
                .build()
        };
        let retries = RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS);
        let mut ec2 = aws_sdk_ec2::config::Builder::from(shared)
            .retry_config(retries.clone())
            .timeout_config(timeouts(ATTEMPT_TIMEOUT));
        let mut quotas = aws_sdk_servicequotas::config::Builder::from(shared)
            .retry_config(retries)
            .timeout_config(timeouts(ATTEMPT_TIMEOUT));
        if let Some(url) = &config.endpoint_url {
            ec2 = ec2.endpoint_url(url);
            quotas = quotas.endpoint_url(url);
        }
        let launcher = ec2
            .clone()
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts(LAUNCH_TIMEOUT));
        Self {
            client: aws_sdk_ec2::Client::from_conf(ec2.build()),
            launcher: aws_sdk_ec2::Client::from_conf(launcher.build()),
            quotas: aws_sdk_servicequotas::Client::from_conf(quotas.build()),
            region: config.region.clone(),
        }
    }

    pub fn region(&self) -> &str {
        &self.region
    }
}
