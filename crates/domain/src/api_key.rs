//! Keys of the HTTP API, with an owner and a rate limit, and their tokens.
//!
//! A token is `spotreel_<id>_<secret>`. The key's id stands in it, so that a leaked token says which key to revoke; of
//! the secret only its hash is kept. Plain SHA-256 is enough there: a slow hash makes guessing passwords dear, and
//! nobody guesses 32 random bytes.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

pub const MAX_OWNER: usize = 64;
/// 60 bits: among a few hundred keys no two are drawn alike.
pub const KEY_ID_CHARS: usize = 12;
pub const SECRET_BYTES: usize = 32;
/// Ten thousand a second: more than one intake accepts.
pub const MAX_TASKS_PER_MINUTE: u32 = 600_000;
/// A note is shown in every list of keys.
pub const MAX_NOTE_BYTES: usize = 200;

const TOKEN_PREFIX: &str = "spotreel";
/// RFC 4648's base32 in lower case: easy to read aloud, and one token of a subject.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Whose keys and tasks they are: a person, a team, a customer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
pub struct Owner(String);

/// A key's name, which is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

/// What a client shows. It prints nowhere; [`Token::expose`] and JSON are the only ways out.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token {
    id: KeyId,
    secret: [u8; SECRET_BYTES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an owner has 1 to {MAX_OWNER} characters out of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit"
)]
pub struct BadOwner;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's id has {KEY_ID_CHARS} characters out of a-z and 0-9")]
pub struct BadKeyId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is spotreel_<id>_<secret>, as it was printed when the key was made")]
pub struct BadToken;

/// A key as it is kept. It is never changed: another one is made, and this one revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: KeyId,
    pub owner: Owner,
    pub secret_sha256: String,
    pub access: Access,
    pub tasks_per_minute: u32,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Whose tasks a key opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Those of its owner.
    #[default]
    Own,
    All,
}

impl Owner {
    pub fn parse(text: &str) -> Result<Self, BadOwner> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let inner = |c: u8| plain(c) || matches!(c, b'.' | b'_' | b'-');
        match text.as_bytes() {
            [first, rest @ ..]
                if plain(*first) && rest.len() < MAX_OWNER && rest.iter().all(|c| inner(*c)) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(BadOwner),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyId {
    pub fn from_random(bits: u64) -> Self {
        let chars = (0..KEY_ID_CHARS).map(|at| BASE32[((bits >> (5 * at)) % 32) as usize]);
        Self(chars.map(char::from).collect())
    }

    pub fn parse(text: &str) -> Result<Self, BadKeyId> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        match text.len() == KEY_ID_CHARS && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadKeyId),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Token {
    pub fn new(id: KeyId, secret: [u8; SECRET_BYTES]) -> Self {
        Self { id, secret }
    }

    pub fn parse(text: &str) -> Result<Self, BadToken> {
        // The secret may hold underscores.
        let mut parts = text.splitn(3, '_');
        let (Some(TOKEN_PREFIX), Some(id), Some(secret)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken);
        };
        let id = KeyId::parse(id).map_err(|_| BadToken)?;
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| BadToken)?;
        let secret = secret.try_into().map_err(|_| BadToken)?;
        Ok(Self { id, secret })
    }

    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// As its holder writes it.
    pub fn expose(&self) -> String {
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
        format!("{TOKEN_PREFIX}_{}_{secret}", self.id)
    }

    /// What may be kept of the secret.
    pub fn secret_sha256(&self) -> String {
        hex::encode(Sha256::digest(self.secret))
    }
}

impl ApiKey {
    /// Whether the token is this key's, in constant time.
    pub fn is_opened_by(&self, token: &Token) -> bool {
        let shown = token.secret_sha256();
        let same = shown.as_bytes().ct_eq(self.secret_sha256.as_bytes());
        self.id == token.id && bool::from(same)
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Tasks that came by NATS have no owner.
    pub fn may_see(&self, owner_of_task: Option<&Owner>) -> bool {
        match self.access {
            Access::All => true,
            Access::Own => owner_of_task == Some(&self.owner),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({TOKEN_PREFIX}_{}_…)", self.id)
    }
}

impl TryFrom<String> for Owner {
    type Error = BadOwner;
    fn try_from(text: String) -> Result<Self, BadOwner> {
        Self::parse(&text)
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = BadKeyId;
    fn try_from(text: String) -> Result<Self, BadKeyId> {
        Self::parse(&text)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl TryFrom<String> for Token {
    type Error = BadToken;
    fn try_from(text: String) -> Result<Self, BadToken> {
        Self::parse(&text)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let secret = std::array::from_fn(|at| u8::try_from(7 * at % 251).unwrap() ^ 0xfb);
        Token::new(KeyId::from_random(0x0123_4567_89ab_cdef), secret)
    }

    fn key() -> ApiKey {
        let token = token();
        ApiKey {
            id: token.id().clone(),
            owner: Owner::parse("anna").unwrap(),
            secret_sha256: token.secret_sha256(),
            access: Access::Own,
            tasks_per_minute: 60,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            note: String::new(),
        }
    }

    #[test]
    fn owners_are_short_plain_words() {
        for good in ["a", "7", "anna", "team-7.video_x", &"x".repeat(64)] {
            assert!(Owner::parse(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(65);
        for bad in [
            "", "Anna", ".anna", "-a", "_a", "a/b", "a b", "a*", "ä", &long,
        ] {
            assert!(Owner::parse(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Owner>(r#""no/pe""#).is_err());
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = token();
        let text = token.expose();
        assert_eq!(text.len(), "spotreel__".len() + KEY_ID_CHARS + 43);
        assert_eq!(Token::parse(&text).unwrap(), token);
        let underscores = Token::new(token.id().clone(), [0xff; SECRET_BYTES]);
        assert!(underscores.expose().ends_with("____________8"));
        assert_eq!(
            Token::parse(&underscores.expose()).as_ref(),
            Ok(&underscores)
        );
        for bits in [0, 1, u64::MAX] {
            let id = KeyId::from_random(bits);
            assert_eq!(KeyId::parse(id.as_str()), Ok(id));
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = token().expose();
        let cut = &text[..text.len() - 1];
        let upper = text.to_uppercase();
        // The last of 43 characters carries four bits only: another one for the same bytes is no second token.
        let mut other_bits = text.clone().into_bytes();
        *other_bits.last_mut().unwrap() += 1;
        let other_bits = String::from_utf8(other_bits).unwrap();
        for bad in [
            "",
            "spotreel",
            "spotreel__",
            cut,
            &upper,
            &other_bits,
            &format!("{text}A"),
            &format!("{text}="),
            &format!(" {text}"),
            &text.replacen("spotreel", "other", 1),
        ] {
            assert_eq!(Token::parse(bad), Err(BadToken), "{bad:?}");
        }
    }

    #[test]
    fn a_key_opens_for_its_own_token_only() {
        let (key, token) = (key(), token());
        assert!(key.is_opened_by(&token));
        let mut secret = token.secret;
        secret[31] ^= 1;
        assert!(!key.is_opened_by(&Token::new(token.id().clone(), secret)));
        let other = KeyId::from_random(1);
        assert!(!key.is_opened_by(&Token::new(other, token.secret)));
    }

    #[test]
    fn a_secret_never_prints() {
        let token = token();
        let secret = URL_SAFE_NO_PAD.encode(token.secret);
        let shown = format!("{token:?} {token:#?} {:?}", Some(&token));
        assert!(!shown.contains(&secret[..8]), "{shown}");
        assert!(shown.contains(token.id().as_str()));
        let bytes = format!("{:?}", token.secret);
        assert!(!shown.contains(&bytes[1..12]), "{shown}");
    }

    #[test]
    fn a_key_ends_at_its_time() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let key = ApiKey {
            expires_at: Some(at(10)),
            ..key()
        };
        assert!(!key.is_expired(at(9)));
        assert!(key.is_expired(at(10)));
        assert!(
            !ApiKey {
                expires_at: None,
                ..key
            }
            .is_expired(at(10))
        );
    }

    #[test]
    fn a_key_sees_what_is_its_owners_or_everything() {
        let (own, ben) = (key(), Owner::parse("ben").unwrap());
        let all = ApiKey {
            access: Access::All,
            ..own.clone()
        };
        for (owner, seen) in [(Some(&own.owner), true), (Some(&ben), false), (None, false)] {
            assert_eq!(own.may_see(owner), seen, "{owner:?}");
            assert!(all.may_see(owner), "{owner:?}");
        }
    }
}
