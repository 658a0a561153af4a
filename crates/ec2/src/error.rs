//! A call that failed, whatever the operation.

use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ConnectorError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use spotreel_domain::fleet::cloud::ErrorClass;

use crate::classify::{NO_CREDENTIALS, NOT_SENT, classify};

/// What EC2, or the way to it, answered after the SDK's own tries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// EC2 does not know what was named. For an instance that is no proof of its end: it may be too young to be seen.
    #[error("{operation}: not found, {message} ({code})")]
    NotFound {
        operation: &'static str,
        code: String,
        message: String,
    },
    #[error("{operation} was refused: {message} ({code}){}", cure(.code, .message, .operation))]
    Refused {
        operation: &'static str,
        class: ErrorClass,
        code: String,
        message: String,
    },
    /// A timeout, a broken connection, an error inside EC2: it may have been done.
    #[error("{operation} got no answer: {message}")]
    NoAnswer {
        operation: &'static str,
        message: String,
    },
    /// An answer that cannot be relied on.
    #[error("{operation} returned {what}")]
    Malformed {
        operation: &'static str,
        what: String,
    },
}

impl CallError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::Configuration,
            Self::Refused { class, .. } => *class,
            Self::NoAnswer { .. } | Self::Malformed { .. } => ErrorClass::Unknown,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// EC2's own code; none if there was no answer that had one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::NotFound { code, .. } | Self::Refused { code, .. } => Some(code),
            Self::NoAnswer { .. } | Self::Malformed { .. } => None,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        matches!(self.class(), ErrorClass::Throttled | ErrorClass::Unknown)
    }

    pub(crate) fn new<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match Failure::of(error) {
            Failure::Refused {
                code,
                message,
                class,
            } => Self::refused(operation, class, code, message),
            Failure::Unclear { message, .. } => Self::NoAnswer { operation, message },
        }
    }

    pub(crate) fn refused(
        operation: &'static str,
        class: ErrorClass,
        code: String,
        message: String,
    ) -> Self {
        if is_not_found(&code) {
            return Self::NotFound {
                operation,
                code,
                message,
            };
        }
        Self::Refused {
            operation,
            class,
            code,
            message,
        }
    }

    pub(crate) fn malformed(operation: &'static str, what: impl Into<String>) -> Self {
        Self::Malformed {
            operation,
            what: what.into(),
        }
    }
}

fn cure(code: &str, message: &str, operation: &str) -> String {
    to_grant(code, message, &format!("ec2:{operation}"))
}

/// What to do about a refusal, if a permission is missing. EC2 may name it in its message, and mostly does so in a coded
/// one: then it is among `permissions`.
pub(crate) fn to_grant(code: &str, message: &str, permissions: &str) -> String {
    match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            let named = message.split("not authorized to perform: ").nth(1);
            let named = named.and_then(|rest| rest.split_whitespace().next());
            format!("; grant {}", named.unwrap_or(permissions))
        }
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
            "; make the account's role for Spot once: aws iam create-service-linked-role --aws-service-name \
             spot.amazonaws.com"
                .to_owned()
        }
        _ => String::new(),
    }
}

/// `InvalidInstanceID.NotFound`, `InvalidLaunchTemplateName.NotFoundException`,
/// `InvalidLaunchTemplateId.VersionNotFound`, `fleetIdDoesNotExist`.
fn is_not_found(code: &str) -> bool {
    code.ends_with(".NotFound")
        || code.ends_with(".VersionNotFound")
        || code.ends_with(".NotFoundException")
        || code == "fleetIdDoesNotExist"
}

/// The one question about a failed call: was it certainly not done?
pub(crate) enum Failure {
    /// It was not done.
    Refused {
        class: ErrorClass,
        code: String,
        message: String,
    },
    /// It may have been done.
    Unclear {
        /// Empty without an answer.
        code: String,
        message: String,
    },
}

impl Failure {
    pub(crate) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let own = |code: &str, message| Self::Refused {
            class: classify(code),
            code: code.to_owned(),
            message,
        };
        match &error {
            SdkError::ConstructionFailure(_) => {
                own(NOT_SENT, DisplayErrorContext(error).to_string())
            }
            SdkError::DispatchFailure(failure) => {
                // Credentials are fetched on the way out; without them nothing leaves.
                let unsigned = failure
                    .as_connector_error()
                    .is_some_and(ConnectorError::is_other)
                    && DisplayErrorContext(&error)
                        .to_string()
                        .contains("credential");
                let message = DisplayErrorContext(error).to_string();
                if unsigned {
                    own(NO_CREDENTIALS, message)
                } else {
                    Self::Unclear {
                        code: String::new(),
                        message,
                    }
                }
            }
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or_default().to_owned();
                let status = answer.raw().status();
                let message = match answer.err().message() {
                    Some(message) => message.to_owned(),
                    None => format!("status {}", status.as_u16()),
                };
                let class = match classify(&code) {
                    // A refusal in words that we don't know is still a refusal. Not so an answer that cannot be
                    // read, which the SDK counts among the errors of the service even with the status 200.
                    ErrorClass::Unknown if status.is_client_error() => ErrorClass::Configuration,
                    class => class,
                };
                match class {
                    ErrorClass::Unknown => Self::Unclear { code, message },
                    class => Self::Refused {
                        class,
                        code,
                        message,
                    },
                }
            }
            // A timeout, an answer that broke off or that nobody can read.
            _ => Self::Unclear {
                code: String::new(),
                message: DisplayErrorContext(error).to_string(),
            },
        }
    }
}
