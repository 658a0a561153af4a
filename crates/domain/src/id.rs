//! Identifiers that are safe as NATS subject tokens and as parts of S3 keys.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::api_key::Owner;

/// The longest id that a client may choose; with it the longest subject stays far below the server's limit.
pub const MAX_TASK_ID: usize = 64;

/// A task's name for its whole life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9_-]{1,64}$")]
pub struct TaskId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a task id has 1 to {MAX_TASK_ID} characters out of A-Z, a-z, 0-9, '-' and '_'")]
pub struct BadTaskId;

impl TaskId {
    pub fn parse(text: &str) -> Result<Self, BadTaskId> {
        let safe = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if text.is_empty() || text.len() > MAX_TASK_ID || !text.bytes().all(safe) {
            return Err(BadTaskId);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id of a task that a client named by an idempotency key: the same key is the same task.
    pub fn from_idempotency_key(key: &str) -> Self {
        Self::from_idempotency_key_of(None, key)
    }

    /// The same among one owner's tasks: what two owners call alike are two tasks.
    pub fn from_idempotency_key_of(owner: Option<&Owner>, key: &str) -> Self {
        match owner {
            None => Self::derived("key", key.as_bytes()),
            // No owner holds a slash.
            Some(owner) => Self::derived("owned-key", format!("{owner}/{key}").as_bytes()),
        }
    }

    /// The id of the `index`-th task of an inbox message without an id of its own. The message's sequence and its
    /// time stay the same when it is delivered again, so a redelivery is the same task; the time tells apart two
    /// messages of one sequence, should the stream ever be made anew.
    pub fn from_inbox(stream: &str, sequence: u64, stored_nanos: i128, index: usize) -> Self {
        Self::derived(
            "inbox",
            format!("{stream}/{sequence}/{stored_nanos}/{index}").as_bytes(),
        )
    }

    fn derived(kind: &str, name: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"spotreel/");
        hash.update(kind.as_bytes());
        hash.update(b"/");
        hash.update(name);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        // RFC 9562 version 8: a UUID whose bits its application chose.
        Self(
            uuid::Builder::from_custom_bytes(bytes)
                .into_uuid()
                .to_string(),
        )
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<uuid::Uuid> for TaskId {
    fn from(id: uuid::Uuid) -> Self {
        Self(id.to_string())
    }
}

impl TryFrom<String> for TaskId {
    type Error = BadTaskId;
    fn try_from(text: String) -> Result<Self, BadTaskId> {
        Self::parse(&text)
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_tokens() {
        for bad in [
            "",
            "a.b",
            "a b",
            "*",
            ">",
            "../x",
            "a/b",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(TaskId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TaskId::parse(&"x".repeat(64)).is_ok());
    }

    #[test]
    fn derived_ids_are_stable_and_apart() {
        let id = TaskId::from_idempotency_key("order-17");
        assert_eq!(id, TaskId::from_idempotency_key("order-17"));
        assert_ne!(id, TaskId::from_idempotency_key("order-18"));
        assert_ne!(
            TaskId::from_inbox("INBOX", 1, 5, 0),
            TaskId::from_inbox("INBOX", 1, 5, 1)
        );
        assert_eq!(TaskId::parse(id.as_str()), Ok(id));
    }

    #[test]
    fn two_owners_never_meet_in_one_id() {
        let (anna, ben) = (Owner::parse("anna").unwrap(), Owner::parse("ben").unwrap());
        let of = TaskId::from_idempotency_key_of;
        assert_eq!(of(None, "1"), TaskId::from_idempotency_key("1"));
        assert_eq!(of(Some(&anna), "1"), of(Some(&anna), "1"));
        let apart = [
            of(Some(&anna), "1"),
            of(Some(&ben), "1"),
            of(None, "1"),
            of(None, "anna/1"),
            of(Some(&anna), "anna/1"),
        ];
        let different: std::collections::HashSet<_> = apart.iter().collect();
        assert_eq!(different.len(), apart.len());
    }
}
