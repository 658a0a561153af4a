//! Which keys the product writes.

/// S3's own limit, in bytes.
const MAX_KEY: usize = 1024;

/// A key that is refused before anything is sent. Some stores map keys to paths, and one that climbs is never meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("an object key is empty")]
    Empty,
    #[error("object key {key:?} starts with a slash")]
    LeadingSlash { key: String },
    #[error("object key {key:?} has a part `..`")]
    Climbs { key: String },
    #[error("an object key of {bytes} bytes is too long (the limit is {MAX_KEY})")]
    TooLong { bytes: usize },
}

pub(crate) fn check_key(key: &str) -> Result<(), KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    check_prefix(key)
}

/// As a key, but it may be empty: everything.
pub(crate) fn check_prefix(key: &str) -> Result<(), KeyError> {
    if key.len() > MAX_KEY {
        return Err(KeyError::TooLong { bytes: key.len() });
    }
    if key.starts_with('/') {
        let key = key.to_owned();
        return Err(KeyError::LeadingSlash { key });
    }
    if key.split('/').any(|part| part == "..") {
        let key = key.to_owned();
        return Err(KeyError::Climbs { key });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_climb_are_refused() {
        assert_eq!(check_key(""), Err(KeyError::Empty));
        for bad in ["/a", "../a", "a/../b", "a/..", ".."] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert!(check_key(&"k".repeat(1025)).is_err());
        for good in ["a", "a/b", "a..b", "...", "a/.hidden", &"k".repeat(1024)] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
    }
}
