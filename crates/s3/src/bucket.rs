//! The bucket itself: made for laptops, asked about for readiness.

use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

use crate::{RequestError, Store};

/// The region whose buckets take no location; S3 refuses its name there.
const DEFAULT_REGION: &str = "us-east-1";

#[derive(Debug, thiserror::Error)]
pub enum CreateBucketError {
    #[error("the bucket {bucket} belongs to someone else")]
    Taken { bucket: String },
    #[error(transparent)]
    Request(RequestError),
}

impl CreateBucketError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

/// Why the store is not ready.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("bucket {bucket} does not exist")]
    NoBucket { bucket: String },
    #[error("no access to the bucket {bucket}")]
    Denied { bucket: String },
    #[error(transparent)]
    Request(RequestError),
}

impl CheckError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Request(request) if request.retryable())
    }
}

impl Store {
    /// Makes the bucket unless it is ours already. Two that do it at once both succeed.
    pub async fn create_bucket_if_missing(&self) -> Result<(), CreateBucketError> {
        let mut request = self.client.create_bucket().bucket(&self.bucket);
        if self.region != DEFAULT_REGION {
            let region = BucketLocationConstraint::from(self.region.as_str());
            let location = CreateBucketConfiguration::builder().location_constraint(region);
            request = request.create_bucket_configuration(location.build());
        }
        let Err(error) = request.send().await else {
            return Ok(());
        };
        let error = RequestError::new("CreateBucket", error);
        if error.is("BucketAlreadyOwnedByYou") {
            return Ok(());
        }
        if error.is("BucketAlreadyExists") {
            let bucket = self.bucket.clone();
            return Err(CreateBucketError::Taken { bucket });
        }
        Err(CreateBucketError::Request(error))
    }

    /// One HEAD on the bucket: reachable, there, and ours to use.
    pub async fn check(&self) -> Result<(), CheckError> {
        let answer = self.client.head_bucket().bucket(&self.bucket).send().await;
        let Err(error) = answer else { return Ok(()) };
        let error = RequestError::new("HeadBucket", error);
        let bucket = self.bucket.clone();
        Err(match error.status {
            Some(404) => CheckError::NoBucket { bucket },
            Some(401 | 403) => CheckError::Denied { bucket },
            _ => CheckError::Request(error),
        })
    }
}
