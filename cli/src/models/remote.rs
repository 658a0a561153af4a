//! The bucket that holds the packs, as the commands reach it.

use anyhow::Context;
use spotreel_packs::Remote;
use spotreel_s3::{Keys, Store, StoreConfig};

use crate::args::BucketArgs;
use crate::connection::{Settings, SettingsError};

const DEFAULT_REGION: &str = "us-east-1";
/// Of a pack's hash, where a person reads it.
pub const SHORT_HASH: usize = 12;

/// Where `args` say, else the local cloud of `--dir`, else AWS by its own settings.
pub async fn remote(settings: &Settings, args: &BucketArgs) -> anyhow::Result<Remote> {
    let bucket = said(settings, args.bucket.as_ref(), "SPOTREEL_BUCKET")?;
    let bucket = bucket.context("name the bucket: --bucket, or SPOTREEL_BUCKET")?;
    let endpoint_url = said(settings, args.s3_endpoint.as_ref(), "AWS_ENDPOINT_URL")?;
    let region = said(settings, args.region.as_ref(), "AWS_REGION")?;
    let config = StoreConfig {
        bucket,
        region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        force_path_style: endpoint_url.is_some(),
        endpoint_url,
        public_endpoint_url: None,
    };
    let dir = settings.args.dir.as_ref();
    let store = match dir.filter(|_| args.s3_endpoint.is_none()) {
        None => Store::connect(&config).await,
        Some(_) => {
            let of_dir =
                |name| Ok::<_, SettingsError>(settings.variable(name)?.unwrap_or_default());
            let keys = Keys {
                access_key: of_dir("AWS_ACCESS_KEY_ID")?,
                secret_key: of_dir("AWS_SECRET_ACCESS_KEY")?,
            };
            Store::connect_with_keys(&config, keys).await
        }
    };
    Ok(Remote::new(store, &args.prefix))
}

pub fn said(
    settings: &Settings,
    flag: Option<&String>,
    name: &str,
) -> Result<Option<String>, SettingsError> {
    match flag {
        Some(value) => Ok(Some(value.clone())),
        None => settings.variable(name),
    }
}

/// With the code, which is what scripts and logs of an engine say as well.
pub fn explain(code: &str, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    match code {
        "unreachable" => {
            error.context("check AWS_ENDPOINT_URL, AWS_REGION and the AWS credentials")
        }
        _ => error,
    }
    .context(code.to_owned())
}
