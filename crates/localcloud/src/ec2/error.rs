//! How EC2 says no.

use http::StatusCode;

use super::xml::{Element, render};

/// A refused call: AWS's code and a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            status: status_of(code),
            code: code.to_owned(),
            message: message.into(),
        }
    }

    pub fn missing(parameter: &str) -> Self {
        let message = format!("The request must contain the parameter {parameter}");
        Self::new("MissingParameter", message)
    }

    pub fn invalid(value: &str, parameter: &str) -> Self {
        let message = format!("Value ({value}) for parameter {parameter} is invalid.");
        Self::new("InvalidParameterValue", message)
    }

    /// What AWS has and this cloud has not: said aloud, never dropped in silence.
    pub fn unsupported(what: &str) -> Self {
        let message = format!("{what} is not supported by this local cloud");
        Self::new("UnsupportedOperation", message)
    }

    pub fn body(&self, request_id: &str) -> String {
        let error = Element::new("Error")
            .text("Code", &self.code)
            .text("Message", &self.message);
        render(
            &Element::new("Response")
                .with(Element::new("Errors").with(error))
                .text("RequestID", request_id),
        )
    }
}

/// The status that AWS answers a code with.
fn status_of(code: &str) -> StatusCode {
    match code {
        "AuthFailure" | "SignatureDoesNotMatch" => StatusCode::UNAUTHORIZED,
        "UnauthorizedOperation" => StatusCode::FORBIDDEN,
        "DryRunOperation" => StatusCode::PRECONDITION_FAILED,
        "InternalError" | "InternalFailure" | "InsufficientInstanceCapacity" => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_REQUEST,
    }
}
