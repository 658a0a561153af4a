//! Domain ⇄ protobuf. A message that this version cannot read is an error with a name, never a default.

pub mod batch;
pub mod task;

use jiff::Timestamp;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the payload is not the protobuf message that its subject promises")]
    Protobuf(#[from] prost::DecodeError),
    #[error("field {0} is missing or holds a value that this version does not know")]
    Field(&'static str),
}

fn time(ms: i64, field: &'static str) -> Result<Timestamp, DecodeError> {
    Timestamp::from_millisecond(ms).map_err(|_| DecodeError::Field(field))
}

/// An enum's word on the wire is its word in JSON.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("only fieldless enums are written as words"),
    }
}

fn from_word<T: serde::de::DeserializeOwned>(
    word: String,
    field: &'static str,
) -> Result<T, DecodeError> {
    serde_json::from_value(serde_json::Value::String(word)).map_err(|_| DecodeError::Field(field))
}
