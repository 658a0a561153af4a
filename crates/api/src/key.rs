//! What operators order of keys, and what they are answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::api_key::{
    Access, ApiKey, KeyId, MAX_NOTE_BYTES, MAX_TASKS_PER_MINUTE, Owner, Token,
};

use crate::error::Violation;
use crate::whole;

/// Of a key that says nothing else: one full call.
pub const USUAL_TASKS_PER_MINUTE: u32 = 10_000;

/// `spotreel.ops.key.create`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyOrder {
    pub owner: String,
    pub access: Access,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub tasks_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The one answer in which a token stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyCreated {
    #[serde(flatten)]
    pub key: KeyView,
    pub token: Token,
}

/// `spotreel.ops.key.list`, the oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyList {
    pub keys: Vec<KeyView>,
}

/// `spotreel.ops.key.revoke`, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRef {
    pub id: String,
}

/// A key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    pub id: KeyId,
    pub owner: Owner,
    pub access: Access,
    pub tasks_per_minute: u32,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl KeyOrder {
    /// The key that `token` opens, or all broken rules at once.
    pub fn key(&self, token: &Token, now: Timestamp) -> Result<ApiKey, Vec<Violation>> {
        let mut broken = Vec::new();
        let mut refuse = |field: &str, rule: &str, message: String| {
            broken.push(Violation::new(field, rule, message));
        };
        let owner = Owner::parse(&self.owner);
        if let Err(bad) = &owner {
            refuse("owner", "word", bad.to_string());
        }
        let tasks_per_minute = self.tasks_per_minute.unwrap_or(USUAL_TASKS_PER_MINUTE);
        if !(1..=MAX_TASKS_PER_MINUTE).contains(&tasks_per_minute) {
            let message = format!("tasks_per_minute is 1 to {MAX_TASKS_PER_MINUTE}");
            refuse("tasks_per_minute", "range", message);
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            let message = "expires_at lies in the past: give a later time or leave it out";
            refuse("expires_at", "future", message.into());
        }
        let note = self.note.trim();
        if note.len() > MAX_NOTE_BYTES || note.contains(char::is_control) {
            let message = format!("note is one line of at most {MAX_NOTE_BYTES} bytes");
            refuse("note", "line", message);
        }
        match owner {
            Ok(owner) if broken.is_empty() => Ok(ApiKey {
                id: token.id().clone(),
                owner,
                secret_sha256: token.secret_sha256(),
                access: self.access,
                tasks_per_minute,
                created_at: now,
                expires_at: self.expires_at,
                note: note.to_owned(),
            }),
            _ => Err(broken),
        }
    }
}

impl From<&ApiKey> for KeyView {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.clone(),
            owner: key.owner.clone(),
            access: key.access,
            tasks_per_minute: key.tasks_per_minute,
            created_at: key.created_at,
            expires_at: key.expires_at,
            note: key.note.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::new(KeyId::from_random(7), [9; 32])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn an_owner_is_enough() {
        let order: KeyOrder = serde_json::from_str(r#"{"owner":"anna"}"#).unwrap();
        let key = order.key(&token(), at(5)).unwrap();
        assert!(key.is_opened_by(&token()));
        assert_eq!(
            (key.access, key.tasks_per_minute),
            (Access::Own, USUAL_TASKS_PER_MINUTE)
        );
        assert_eq!((key.created_at, key.expires_at), (at(5), None));
        assert!(serde_json::from_str::<KeyOrder>(r#"{"owner":"anna","all":true}"#).is_err());
    }

    #[test]
    fn every_broken_rule_is_named() {
        let order = KeyOrder {
            owner: "Anna!".into(),
            access: Access::All,
            tasks_per_minute: Some(0),
            expires_at: Some(at(5)),
            note: "two\nlines".into(),
        };
        let broken = order.key(&token(), at(5)).unwrap_err();
        let fields: Vec<_> = broken.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["owner", "tasks_per_minute", "expires_at", "note"]);
    }

    #[test]
    fn what_is_shown_holds_no_hash_and_the_token_once() {
        let order: KeyOrder = serde_json::from_str(r#"{"owner":"anna","note":"ci"}"#).unwrap();
        let key = order.key(&token(), at(5)).unwrap();
        let created = KeyCreated {
            key: KeyView::from(&key),
            token: token(),
        };
        let json = serde_json::to_value(&created).unwrap();
        assert_eq!(json["token"], token().expose());
        assert_eq!(
            (&json["id"], &json["note"]),
            (&"haaaaaaaaaaa".into(), &"ci".into())
        );
        assert!(!json.to_string().contains(&key.secret_sha256));
        assert_eq!(serde_json::from_value::<KeyCreated>(json).unwrap(), created);
        assert!(!format!("{created:?}").contains(&token().expose()[22..]));
    }
}
