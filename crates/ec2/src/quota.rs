//! vCPU quotas of the account.

use aws_sdk_servicequotas::operation::get_service_quota::GetServiceQuotaError;
use aws_sdk_servicequotas::types::ServiceQuota;
use spotreel_domain::fleet::cloud::ErrorClass::Configuration;
use spotreel_domain::fleet::cloud::Lifecycle;

use crate::{CallError, Ec2};

const OPERATION: &str = "GetServiceQuota";

impl Ec2 {
    /// The account's limit of vCPUs in machines with a GPU of the families G and VT. None: it may not be asked, or the
    /// endpoint has no such API.
    pub async fn quota(&self, lifecycle: Lifecycle) -> Result<Option<u32>, CallError> {
        let call = self.quotas.get_service_quota();
        let call = call.service_code("ec2").quota_code(lifecycle.quota_code());
        match call.send().await {
            Ok(answer) => {
                let value = answer.quota().and_then(ServiceQuota::value);
                Ok(value.map(whole))
            }
            Err(error) => {
                let status = error.raw_response().map(|answer| answer.status().as_u16());
                let unasked = matches!(
                    error.as_service_error(),
                    Some(
                        GetServiceQuotaError::AccessDeniedException(_)
                            | GetServiceQuotaError::NoSuchResourceException(_)
                    )
                );
                let error = CallError::new(OPERATION, error);
                // 404 and 501, or an answer in another protocol: an endpoint that is not all of AWS.
                let elsewhere = matches!(status, Some(403 | 404 | 405 | 501));
                if unasked || elsewhere || error.class() == Configuration {
                    tracing::debug!(%error, "quota lookup failed");
                    return Ok(None);
                }
                Err(error)
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "as casts saturate, and a quota is a whole number"
)]
fn whole(value: f64) -> u32 {
    value as u32
}
