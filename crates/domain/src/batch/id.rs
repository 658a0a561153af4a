//! Names of pools and ids of batches.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name of a pool: it is a part of subjects, tags and names.
pub const MAX_POOL_NAME: usize = 32;

/// A set of models, instance types, zones and rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PoolName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pool's name has 1 to {MAX_POOL_NAME} characters out of a-z, 0-9 and '-', and begins and ends with none of '-'"
)]
pub struct BadPoolName;

impl PoolName {
    pub fn parse(text: &str) -> Result<Self, BadPoolName> {
        let safe = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fits = (1..=MAX_POOL_NAME).contains(&text.len());
        if !fits || !text.bytes().all(safe) || text.starts_with('-') || text.ends_with('-') {
            return Err(BadPoolName);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PoolName {
    type Error = BadPoolName;
    fn try_from(text: String) -> Result<Self, BadPoolName> {
        Self::parse(&text)
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<pool>-<number>`, numbers from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BatchId {
    pub pool: PoolName,
    pub number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a batch's id is the pool's name, a dash and a number: default-17")]
pub struct BadBatchId;

impl BatchId {
    pub fn parse(text: &str) -> Option<Self> {
        let (pool, number) = text.rsplit_once('-')?;
        let pool = PoolName::parse(pool).ok()?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some(Self { pool, number })
    }
}

impl TryFrom<String> for BatchId {
    type Error = BadBatchId;
    fn try_from(text: String) -> Result<Self, BadBatchId> {
        Self::parse(&text).ok_or(BadBatchId)
    }
}

impl From<BatchId> for String {
    fn from(id: BatchId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pool, self.number)
    }
}
