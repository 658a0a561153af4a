//! Signatures as Standard Webhooks 1.0.0 has them: HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Of a secret that spotreel makes; the specification allows 24 to 64.
pub const SECRET_BYTES: usize = 32;
const PREFIX: &str = "whsec_";

/// The key that spotreel and a receiver share. It prints nowhere; [`WebhookSecret::expose`] and JSON are the only ways out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookSecret(Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is whsec_ and 24 to 64 bytes in base64")]
pub struct BadSecret;

impl WebhookSecret {
    pub fn new(random: [u8; SECRET_BYTES]) -> Self {
        Self(random.to_vec())
    }

    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(BadSecret)?;
        let bytes = BASE64.decode(encoded).map_err(|_| BadSecret)?;
        match (24..=64).contains(&bytes.len()) {
            true => Ok(Self(bytes)),
            false => Err(BadSecret),
        }
    }

    /// As its holder writes it.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }

    fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        mac.update(format!("{id}.{}.", at.as_second()).as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

impl TryFrom<String> for WebhookSecret {
    type Error = BadSecret;

    fn try_from(text: String) -> Result<Self, BadSecret> {
        Self::parse(&text)
    }
}

impl From<WebhookSecret> for String {
    fn from(secret: WebhookSecret) -> Self {
        secret.expose()
    }
}

/// The secret in force, and the one before it while receivers change over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecrets {
    pub current: WebhookSecret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Former>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    secret: WebhookSecret,
    until: Timestamp,
}

impl SigningSecrets {
    pub fn new(secret: WebhookSecret) -> Self {
        Self {
            current: secret,
            former: None,
        }
    }

    /// `secret` from now on; until `until` each delivery bears a signature with the former one, too.
    #[must_use]
    pub fn rotated(&self, secret: WebhookSecret, until: Timestamp) -> Self {
        let former = Former {
            secret: self.current.clone(),
            until,
        };
        Self {
            current: secret,
            former: Some(former),
        }
    }

    /// The value of the header `webhook-signature` for an attempt at this time.
    pub fn signature(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        let former = self.former.as_ref().filter(|former| at < former.until);
        let secrets = [&self.current]
            .into_iter()
            .chain(former.map(|former| &former.secret));
        let signatures: Vec<_> = secrets.map(|secret| secret.sign(id, at, body)).collect();
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"email":"test@example.com","username":"test_user"}"#;
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn secret() -> WebhookSecret {
        WebhookSecret::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").expect("it is one")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("it is a time")
    }

    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        let secrets = SigningSecrets::new(secret());
        let signature = secrets.signature(ID, at(1_649_367_553), BODY.as_bytes());
        assert_eq!(signature, SIGNATURE);
        for (id, time, body) in [
            ("msg_2", at(1_649_367_553), BODY),
            (ID, at(1_649_367_554), BODY),
            (ID, at(1_649_367_553), "{}"),
        ] {
            assert_ne!(secrets.signature(id, time, body.as_bytes()), SIGNATURE);
        }
    }

    #[test]
    fn both_secrets_sign_until_the_former_one_ends() {
        let new = SigningSecrets::new(WebhookSecret::new([7; SECRET_BYTES]));
        let rotated = SigningSecrets::new(secret()).rotated(new.current.clone(), at(1_649_367_554));
        let both = rotated.signature(ID, at(1_649_367_553), BODY.as_bytes());
        let one = new.signature(ID, at(1_649_367_553), BODY.as_bytes());
        assert_eq!(both, format!("{one} {SIGNATURE}"));
        let later = rotated.signature(ID, at(1_649_367_554), BODY.as_bytes());
        assert!(!later.contains(' '), "{later}");
    }

    #[test]
    fn a_secret_is_read_as_it_is_written_and_never_printed() {
        let made = WebhookSecret::new([9; SECRET_BYTES]);
        assert_eq!(WebhookSecret::parse(&made.expose()), Ok(made.clone()));
        assert_eq!(
            format!("{:?}", SigningSecrets::new(made))
                .matches("CQkJ")
                .count(),
            0
        );
        for bad in [
            "",
            "whsec_",
            "whsec_AAAA",
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "whsec_!",
        ] {
            assert_eq!(WebhookSecret::parse(bad), Err(BadSecret), "{bad}");
        }
    }
}
