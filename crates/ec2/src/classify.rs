//! Classifies EC2's error codes by the next step.

use spotreel_domain::fleet::cloud::{ErrorClass, TOKEN_MISMATCH};

/// The class of a code, at the top of an answer or in a fleet's list of errors. A code that nobody here knows is
/// [`ErrorClass::Unknown`]; whether something was launched then depends on the answer's status.
pub fn classify(code: &str) -> ErrorClass {
    let code = code
        .strip_prefix("Client.")
        .or_else(|| code.strip_prefix("Server."))
        .unwrap_or(code);
    match code {
        "UnfulfillableCapacity" | "Unsupported" | "ReservationCapacityExceeded" => {
            ErrorClass::Capacity
        }
        // InsufficientInstanceCapacity, …HostCapacity, …FreeAddressesInSubnet, …CapacityOnOutpost
        code if code.starts_with("Insufficient") => ErrorClass::Capacity,

        "SpotMaxPriceTooLow" => ErrorClass::Price,

        "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException"
        | "TooManyRequestsException"
        | "PriorRequestNotComplete"
        | "SlowDown" => ErrorClass::Throttled,

        "MaxSpotInstanceCountExceeded"
        | "MaxFleetCountExceeded"
        | "MaxSpotFleetRequestCountExceeded"
        | "ResourceCountLimitExceeded" => ErrorClass::Quota,
        // VcpuLimitExceeded, InstanceLimitExceeded, VolumeLimitExceeded, …
        code if code.ends_with("LimitExceeded") => ErrorClass::Quota,

        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OperationNotPermitted"
        | "OptInRequired"
        | "PendingVerification"
        | "Blocked"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException"
        | TOKEN_MISMATCH
        | "UnsupportedOperation"
        | "UnknownParameter"
        | "ValidationError"
        | "MalformedQueryString"
        | "DryRunOperation"
        | NO_CREDENTIALS
        | NOT_SENT => ErrorClass::Configuration,
        code if ["Invalid", "Missing", "AuthFailure", "VPCIdNotSpecified"]
            .iter()
            .any(|start| code.starts_with(start)) =>
        {
            ErrorClass::Configuration
        }

        // InternalError, ServiceUnavailable, Unavailable, and whatever comes next
        _ => ErrorClass::Unknown,
    }
}

/// Our own codes, for requests that never left.
pub(crate) const NO_CREDENTIALS: &str = "NoCredentials";
pub(crate) const NOT_SENT: &str = "NotSent";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that the notes on EC2, Karpenter (`pkg/errors`) and ParallelCluster (`slurm_resources.py`) name.
    #[test]
    fn every_known_code_has_its_class() {
        use ErrorClass::*;
        for (class, codes) in [
            (
                Capacity,
                &[
                    "InsufficientInstanceCapacity",
                    "InsufficientHostCapacity",
                    "InsufficientReservedInstanceCapacity",
                    "InsufficientCapacity",
                    "InsufficientCapacityOnOutpost",
                    "InsufficientFreeAddressesInSubnet",
                    "InsufficientVolumeCapacity",
                    "UnfulfillableCapacity",
                    "ReservationCapacityExceeded",
                    "Unsupported",
                    "Server.InsufficientInstanceCapacity",
                ][..],
            ),
            (Price, &["SpotMaxPriceTooLow"]),
            (
                Quota,
                &[
                    "MaxSpotInstanceCountExceeded",
                    "VcpuLimitExceeded",
                    "MaxFleetCountExceeded",
                    "InstanceLimitExceeded",
                    "VolumeLimitExceeded",
                ],
            ),
            (
                Configuration,
                &[
                    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
                    "AuthFailure",
                    "UnauthorizedOperation",
                    "AccessDenied",
                    "AccessDeniedException",
                    "IdempotentParameterMismatch",
                    "InvalidParameterValue",
                    "InvalidFleetConfiguration",
                    "InvalidSubnetID.NotFound",
                    "InvalidAMIID.NotFound",
                    "InvalidLaunchTemplateName.NotFoundException",
                    "InvalidLaunchTemplateId.NotFound",
                    "InvalidInstanceID.NotFound",
                    "MissingParameter",
                    "Client.InvalidParameterCombination",
                ],
            ),
            (
                Throttled,
                &["RequestLimitExceeded", "Throttling", "ThrottlingException"],
            ),
            (
                Unknown,
                &[
                    "InternalError",
                    "InternalFailure",
                    "ServiceUnavailable",
                    "Unavailable",
                    "",
                    "NeverHeardOf",
                ],
            ),
        ] {
            for code in codes {
                assert_eq!(classify(code), class, "{code}");
            }
        }
    }
}
